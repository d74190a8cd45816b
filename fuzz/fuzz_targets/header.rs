//! Headers of safetensors files: whatever the bytes, an error or tensors inside the file.
#![no_main]

use std::path::Path;

use fuselm::tensors::Header;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(header) = Header::parse(Path::new("fuzz"), bytes) {
        for tensor in &header.tensors {
            let size = tensor.dtype.size() * tensor.shape.iter().product::<usize>();
            assert_eq!(bytes[tensor.begin..tensor.end].len(), size);
        }
    }
});
