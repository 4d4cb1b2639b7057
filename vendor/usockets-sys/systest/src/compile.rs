//! Running the C compiler.

use std::env;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// Compiles `code` after the headers, with everything that the headers can offer switched on.
/// Returns what the compiler says if it refuses.
pub(crate) fn run(include: &Path, headers: &[&str], code: &str) -> Result<(), String> {
    let compiler = env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let mut source: String =
        headers.iter().map(|header| format!("#include \"{header}\"\n")).collect();
    source += "#include <stddef.h>\n";
    source += code;

    let refused = |e| format!("the C compiler `{compiler}` (variable CC) cannot be run: {e}\n");
    let mut child = Command::new(&compiler)
        .args(["-std=c11", "-D_GNU_SOURCE", "-DUSX_FAULT_INJECTION", "-Werror", "-I"])
        .arg(include)
        .args(["-fsyntax-only", "-x", "c", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(refused)?;
    // The compiler reads all of its input before it writes, so that neither side waits in vain.
    let mut input = child.stdin.take().expect("the input is a pipe");
    input.write_all(source.as_bytes()).map_err(refused)?;
    drop(input);
    let output = child.wait_with_output().map_err(refused)?;
    if output.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}
