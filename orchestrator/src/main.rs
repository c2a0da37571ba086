use std::process::ExitCode;

fn main() -> ExitCode {
    pitwall::cli::main()
}
