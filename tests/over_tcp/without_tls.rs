//! TLS in a build without it.

use usockets::{SocketContext, UsError};

use crate::util::{Drops, assert_nothing_live, guard, new_loop};

#[test]
fn tls_is_an_error_in_a_build_without_it() -> Result<(), UsError> {
    let _guard = guard();
    let event_loop = new_loop();
    let drops = Drops::new();
    let (state, captured) = (drops.token(), drops.token());
    let built = SocketContext::<true, _, ()>::builder()
        .on_data(move |_, _, _, _| captured.hold())
        .build(&event_loop, state);
    if cfg!(usockets_tls) {
        println!("skipped: this build has TLS");
        return Ok(());
    }
    let error = built.expect_err("never a plain socket");
    assert!(matches!(error, UsError::TlsUnavailable), "{error}");
    assert_eq!(error.kind(), std::io::ErrorKind::Unsupported);
    drops.assert_all_dropped();
    assert_nothing_live(&event_loop);
    Ok(())
}
