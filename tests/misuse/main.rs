//! Everything that safe code can do wrong, done in every place where code of the program runs.
//!
//! [`actions`] lists what is done, [`places`] where. For each pair a fresh [`world`] with a loop, contexts,
//! sockets, timers, polls and jobs follows one [`script`] that comes through all places, and the action is
//! taken at the first visit of its place. Whatever that is, these must hold ([`world`] records what does
//! not):
//!
//! - nothing crashes, and a callback is never called inside another one or inside a closure;
//! - every connection comes to exactly one `on_open` and one `on_close`, or one `on_connect_error`; nothing
//!   is called for it afterwards, nor after the program has closed it;
//! - all that was made is dropped once: states, closures, jobs, sources; all descriptors are closed;
//! - a run inside a run is refused; a panic comes out once, with its payload, and the loop goes on;
//! - handles that are left answer when the loop is gone.

#[path = "../util/mod.rs"]
mod util;

mod actions;
mod places;
mod script;
mod values;
mod world;

use std::time::Duration;

use actions::{Action, Deed};
use places::{PLACES, Place};
use world::World;

/// How long one pair may take, of some thousand.
const PAIR_MAX: Duration = Duration::from_secs(10);

/// Runs the script once and returns what went wrong.
fn run_pair(action: Action, place: Place, index: usize) -> Vec<String> {
    let descriptors = util::Descriptors::now();
    let world = World::new(action, place, index);
    let faults = script::play(&world);
    drop(world);
    descriptors.assert_unchanged_but_for(world::forgotten_descriptors());
    faults
}

/// All actions in one place.
fn run_place(guard: &util::Guard, place: Place, complaints: &mut Vec<String>) -> usize {
    let actions = Action::all();
    for (index, action) in actions.iter().enumerate() {
        guard.step(&format!("{action:?} in {place:?}"));
        let faults = run_pair(*action, place, index);
        complaints.extend(faults.iter().map(|fault| format!("{action:?} in {place:?}: {fault}")));
    }
    actions.len()
}

#[test]
fn script_comes_through_all_places() {
    let _guard = util::alone();
    let world = World::new(Action::Do(Deed::Nothing), Place::Data, 0);
    assert_eq!(script::play(&world), Vec::<String>::new());
    let missed: Vec<Place> =
        PLACES.iter().copied().filter(|place| !world.was_visited(*place)).collect();
    assert_eq!(missed, Vec::new(), "places that were not visited");
}

#[test]
fn every_action_in_every_place() {
    let guard = util::alone_for(PAIR_MAX);
    world::make_shared();
    let mut complaints = Vec::new();
    let mut pairs = 0;
    for place in PLACES.iter().filter(|place| selected(**place)) {
        pairs += run_place(&guard, *place, &mut complaints);
    }
    println!("{pairs} pairs of an action and a place");
    assert!(complaints.is_empty(), "{} complaints:\n{}", complaints.len(), complaints.join("\n"));
}

/// The variable USOCKETS_MISUSE_PLACE restricts the table to one place.
fn selected(place: Place) -> bool {
    std::env::var("USOCKETS_MISUSE_PLACE").map_or(true, |only| only == format!("{place:?}"))
}
