//! `weft`: see `weft --help`.

fn main() -> std::process::ExitCode {
    weft::cli::main()
}
