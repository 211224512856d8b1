//! libFuzzer's entry to the target `response`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hostgate_fuzz::response::run(data));
