#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| portcullis_proxy::fuzzing::manifests(input));
