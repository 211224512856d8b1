//! The API with a certificate.

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::api::{TOKEN, Wire, curl, head};
use crate::support::*;

/// The keys of `[control]` that turn TLS on.
const LINES: &str = "tls_certificate = \"cert.pem\"\ntls_key = \"key.pem\"";

/// What is done to the files in a directory.
type Spoil = fn(&Path);

/// Makes a certificate for `api.test` and its key, in place of what is there.
fn certificate(directory: &Path) {
    let output = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"])
        .args(["-subj", "/CN=api.test", "-addext", "subjectAltName=DNS:api.test"])
        .args(["-keyout", "key.new", "-out", "cert.new"])
        .current_dir(directory)
        .output()
        .expect("openssl is there");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fs::set_permissions(directory.join("key.new"), fs::Permissions::from_mode(0o600)).unwrap();
    for name in ["key", "cert"] {
        fs::rename(directory.join(format!("{name}.new")), directory.join(format!("{name}.pem"))).unwrap();
    }
}

/// A server to be, with a certificate.
fn setup(lines: &str) -> Setup {
    let upstream = FakeUpstream::start();
    let setup = Setup::policy(&upstream, "allowed_hostnames = [\"*.test\"]").control(&format!("{LINES}\n{lines}"));
    certificate(setup.directory());
    setup
}

/// Asks over TLS by the certificate that is in the directory; returns status and version.
fn ask_api(server: &Server, arguments: &[&str]) -> (u16, String) {
    let port = server.control().port();
    let (url, place) = (format!("https://api.test:{port}/nothing"), format!("api.test:{port}:127.0.0.1"));
    let (root, bearer) = (server.directory().join("cert.pem"), format!("authorization: Bearer {TOKEN}"));
    let common = ["--cacert", root.to_str().unwrap(), "--resolve", &place, "-H", &bearer, &url];
    let (status, version, _) = curl(&[arguments, &common].concat());
    (status, version)
}

#[test]
fn both_versions_are_served_and_a_renewed_certificate_without_a_restart() {
    // Any address will do with a certificate.
    let server = setup("listen = \"0.0.0.0:0\"").start();
    for round in 0..3 {
        assert_eq!(ask_api(&server, &["--http2"]), (404, "2".to_owned()), "{round}");
        assert_eq!(ask_api(&server, &["--http1.1", "--tls-max", "1.2"]), (404, "1.1".to_owned()), "{round}");
        certificate(server.directory());
    }
    let (cert, kept) = (server.directory().join("cert.pem"), server.directory().join("kept.pem"));
    fs::copy(&cert, &kept).unwrap();
    assert_eq!(ask_api(&server, &[]).0, 404);
    fs::write(&cert, "none").unwrap();
    let place = format!("api.test:{}:127.0.0.1", server.control().port());
    let url = format!("https://api.test:{}/nothing", server.control().port());
    let (status, ..) = curl(&["--cacert", kept.to_str().unwrap(), "--resolve", &place, &url]);
    assert_eq!(status, 401, "the one in force stays");
    server.wait_log(&["ERROR", "certificate not reloaded", "cert.pem"]);
}

#[test]
fn who_does_not_speak_tls_is_cut_off() {
    let server = setup("").start();
    let mut plain = Wire::open(&server);
    let heard = plain.send(head("GET", "/nothing", TOKEN, "")).closed();
    assert!(!heard.starts_with(b"HTTP"), "{heard:?}");
    let start = Instant::now();
    let mut silent = Wire::open(&server);
    // The beginning of a handshake record.
    silent.send(b"\x16\x03\x01\x02\0").closed();
    let took = start.elapsed();
    assert!((Duration::from_secs(4)..Duration::from_secs(8)).contains(&took), "{took:?}");
    assert_eq!(ask_api(&server, &[]).0, 404);
}

#[test]
fn a_bad_certificate_or_a_key_that_others_can_read_closes_the_api_until_it_is_good() {
    let spoil: [(Spoil, &str); 5] = [
        (|d| fs::set_permissions(d.join("key.pem"), fs::Permissions::from_mode(0o644)).unwrap(), "mode 644"),
        (|d| fs::write(d.join("cert.pem"), "").unwrap(), "no certificate can be read"),
        (|d| fs::write(d.join("key.pem"), "nothing").unwrap(), "no private key can be read"),
        (|d| fs::remove_file(d.join("cert.pem")).unwrap(), "there is no such file"),
        (
            |d| {
                fs::copy(d.join("cert.pem"), d.join("old.pem")).unwrap();
                certificate(d);
                fs::rename(d.join("old.pem"), d.join("cert.pem")).unwrap();
            },
            "it is not the key of the certificate",
        ),
    ];
    for (spoil, told) in spoil {
        let setup = setup("");
        spoil(setup.directory());
        let server = setup.start();
        let entry = server.wait_out_of_date("certificate");
        let why = entry["why"].as_str().unwrap();
        assert!(why.starts_with("the API is closed: ") && why.contains(told), "{entry}");
        let mut stream = TcpStream::connect(server.control()).unwrap();
        assert!(client::is_closed_within(&mut stream, DEADLINE), "no connection is served without it");
        assert_eq!(ask("any.example", RecordType::A).udp(&server).rcode(), ResponseCode::NXDomain);
        certificate(server.directory());
        server.wait_not_out_of_date("certificate");
    }
    // Without a certificate, tokens do not go over a network.
    let upstream = FakeUpstream::start();
    let plain = Setup::policy(&upstream, "").control("listen = \"0.0.0.0:0\"");
    plain.refused().expect_code(78).expect_text(&["in the clear"]);
}
