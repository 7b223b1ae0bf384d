//! The plugin's program; everything is in the library, so that `weft lab` can act as the plugin.

fn main() -> std::process::ExitCode {
    weft_cni::main()
}
