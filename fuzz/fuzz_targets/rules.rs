#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| eyot_fuzz::rules(data));
