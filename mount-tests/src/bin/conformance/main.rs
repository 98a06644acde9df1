//! Runs a suite that others wrote on a volume with three live peers and, for reference, on ext4.
//!
//! `conformance SUITE [ARGUMENT...]`; the scripts in `mount-tests/conformance` install what a suite
//! needs and call this. A run fails where dfs is worse than ext4 was in the same run.

mod pjdfstest;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["pjdfstest", program, tests @ ..] => pjdfstest::run(program, tests),
        _ => panic!("usage: conformance SUITE [ARGUMENT...], see mount-tests/conformance"),
    }
}
