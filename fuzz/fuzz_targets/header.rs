//! Headers of safetensors files: whatever the bytes, an error or tensors that cover the file.
#![no_main]

use std::path::Path;

use fuselm_fuzz::tensors::Header;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    match Header::parse(Path::new("fuzz"), bytes) {
        Ok(header) => {
            let mut covered = bytes.len();
            for tensor in header.tensors.iter().rev() {
                let size = tensor.dtype.size() * tensor.shape.iter().product::<usize>();
                assert_eq!(tensor.begin..tensor.end, covered - size..covered);
                covered = tensor.begin;
                let mut values = vec![0.0; size / tensor.dtype.size()];
                tensor.dtype.decode(&bytes[tensor.begin..tensor.end], &mut values);
            }
        }
        Err(error) => assert!(error.to_string().len() < 10_000),
    }
});
