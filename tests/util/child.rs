use std::env;
use std::process::{Child, Command, Stdio};

/// Tells a child process its part.
const ROLE: &str = "USOCKETS_TEST_ROLE";

/// The part of this process in the test, if another process has started it.
pub fn child_role() -> Option<String> {
    env::var(ROLE).ok()
}

/// What starts this very program anew, to run only the test `name` in the part `role`.
pub fn child_command(name: &str, role: &str) -> Command {
    let mut command = Command::new(env::current_exe().expect("a program has a path"));
    command.args(["--exact", name, "--nocapture", "--test-threads=1"]).env(ROLE, role);
    command
}

/// Does so. Its standard input and output are piped.
pub fn run_child(name: &str, role: &str) -> Child {
    child_command(name, role)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("this program can be started")
}
