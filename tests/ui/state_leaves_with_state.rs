//! What `with_state` lends ends with its closure.

use usockets::Loop;

fn main() {
    let event_loop = Loop::from_state(String::new()).unwrap();
    let state: &mut String = event_loop.with_state(|state| state).unwrap();
    state.push('x');
}
