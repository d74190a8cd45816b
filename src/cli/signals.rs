//! Signals that would end the program without a word.

/// Has files that may not grow (`ulimit -f`) be errors of the write, and files that vanish while they
/// are mapped be said before the program ends.
#[cfg(target_os = "linux")]
pub fn handle() {
    // SAFETY: both calls only set what the two signals do; `lost` is a handler as `SA_SIGINFO` wants
    // it, and does nothing that a handler must not.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        let mut action: libc::sigaction = std::mem::zeroed();
        let handler: extern "C" fn(_, _, _) = mapped::lost;
        action.sa_sigaction = handler as libc::sighandler_t;
        action.sa_flags = libc::SA_SIGINFO;
        libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut());
    }
}

#[cfg(not(target_os = "linux"))]
pub fn handle() {}

/// A page of a mapped file that is not there any more.
#[cfg(target_os = "linux")]
mod mapped {
    use libc::{c_int, c_void, siginfo_t};

    /// Where a file that was cut short ends the program: as other files that are not what was written.
    const EXIT_CODE: c_int = 3;
    /// Longest line of `/proc/self/maps` that is read: a path and what stands before it.
    const LINE: usize = 4096 + 128;

    pub extern "C" fn lost(_: c_int, info: *mut siginfo_t, _: *mut c_void) {
        // SAFETY: the system gives a handler of this kind a valid pointer.
        let address = unsafe { (*info).si_addr() } as usize;
        let mut line = [0u8; LINE];
        let file = file_at(address, &mut line).unwrap_or(b"a file");
        say(b"\nerror: ");
        say(file);
        say(
            b": it was cut short while it was read, or its disk failed; \
            run the same command again when it is whole, what is complete is kept\n",
        );
        // SAFETY: ends the process at once, which a handler may do.
        unsafe { libc::_exit(EXIT_CODE) }
    }

    fn say(text: &[u8]) {
        // SAFETY: the pointer and the length are those of a slice; a handler may write.
        unsafe { libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), text.len()) };
    }

    /// The file that is mapped at `address`, as the system lists it; nothing is allocated.
    fn file_at(address: usize, line: &mut [u8; LINE]) -> Option<&[u8]> {
        // SAFETY: the path ends with a zero; a handler may open and read files.
        let maps = unsafe { libc::open(c"/proc/self/maps".as_ptr(), libc::O_RDONLY) };
        let mut block = [0u8; 1024];
        let mut length = 0;
        loop {
            // SAFETY: the pointer and the length are those of `block`.
            let read = unsafe { libc::read(maps, block.as_mut_ptr().cast(), block.len()) };
            let read = usize::try_from(read).ok().filter(|read| *read > 0)?;
            for byte in &block[..read] {
                if *byte != b'\n' {
                    if let Some(free) = line.get_mut(length) {
                        *free = *byte;
                        length += 1;
                    }
                    continue;
                }
                if let Some(start) = path_if_at(&line[..length], address) {
                    return Some(&line[start..length]);
                }
                length = 0;
            }
        }
    }

    /// Where the path begins in a line `start-end rights offset device inode path`, if the line is about
    /// `address` and has one.
    fn path_if_at(line: &[u8], address: usize) -> Option<usize> {
        let (start, rest) = hex(line)?;
        let (end, rest) = hex(rest.strip_prefix(b"-")?)?;
        if address < start || address >= end {
            return None;
        }
        let slash = rest.iter().position(|byte| *byte == b'/')?;
        Some(line.len() - rest.len() + slash)
    }

    fn hex(text: &[u8]) -> Option<(usize, &[u8])> {
        let digits = text
            .iter()
            .take_while(|byte| byte.is_ascii_hexdigit())
            .count();
        let (digits, rest) = text.split_at(digits);
        let value = |value, digit: &u8| Some(value << 4 | (*digit as char).to_digit(16)? as usize);
        Some((digits.iter().try_fold(0usize, value)?, rest))
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_line_of_the_maps_gives_its_path() {
            let line = b"7f10-7f20 r--s 00000000 08:01 1234    /data/a model.safetensors";
            let path = |address| path_if_at(line, address).map(|at| &line[at..]);
            assert_eq!(path(0x7f10), Some(&b"/data/a model.safetensors"[..]));
            assert_eq!(path(0x7f1f), Some(&b"/data/a model.safetensors"[..]));
            assert_eq!(path(0x7f20), None);
            assert_eq!(path_if_at(b"7f10-7f20 rw-p 00000000 00:00 0", 0x7f10), None);
        }
    }
}
