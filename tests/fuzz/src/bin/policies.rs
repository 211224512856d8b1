//! libFuzzer's entry to the target `policies`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hostgate_fuzz::policies::run(data));
