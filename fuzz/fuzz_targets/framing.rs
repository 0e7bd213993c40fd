#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| eranos_fuzz::framing(data));
