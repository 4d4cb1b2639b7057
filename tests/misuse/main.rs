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
mod deeds;
mod kept;
mod places;
mod script;
mod states;
mod values;
mod world;

use std::time::Duration;

use actions::Action;
use deeds::Deed;
use places::{PLACES, Place};
use world::World;

/// An enum of names, and all of them.
macro_rules! list {
    ($(#[$doc:meta])* $name:ident { $($variant:ident,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum $name {
            $($variant,)*
        }

        impl $name {
            pub(crate) const ALL: &[Self] = &[$(Self::$variant,)*];
        }
    };
}

use list;

/// How long one pair may take, of some thousand.
const PAIR_MAX: Duration = Duration::from_secs(10);

/// Runs the script once, with these actions in these places, and returns what went wrong.
fn run(plan: Vec<(Place, Action)>, by_run: bool) -> Vec<String> {
    let descriptors = util::Descriptors::now();
    let world = World::new(plan, by_run);
    let mut faults = script::play(&world);
    drop(world);
    faults.extend(descriptors.check_unchanged_but_for(world::forgotten_descriptors()).err());
    faults
}

#[track_caller]
fn expect_none(complaints: &[String]) {
    let count = complaints.len();
    assert!(complaints.is_empty(), "{count} complaints:\n{}", complaints.join("\n"));
}

#[test]
fn script_comes_through_all_places() {
    let _guard = util::alone();
    for by_run in [false, true] {
        let world = World::new(vec![(Place::Data, Action::Do(Deed::Nothing))], by_run);
        assert_eq!(script::play(&world), Vec::<String>::new());
        let missed: Vec<Place> =
            PLACES.iter().copied().filter(|place| !world.was_visited(*place)).collect();
        assert_eq!(missed, Vec::new(), "places that were not visited");
    }
}

#[test]
fn every_action_in_every_place() {
    let guard = util::alone_for(PAIR_MAX);
    world::make_shared();
    let (mut complaints, mut pairs) = (Vec::new(), 0);
    for place in PLACES.iter().copied().filter(|place| selected(*place)) {
        for action in Action::all() {
            let pair = format!("{action:?} in {place:?}");
            guard.step(&pair);
            let faults = run(vec![(place, action)], pairs % 2 == 1);
            complaints.extend(faults.iter().map(|fault| format!("{pair}: {fault}")));
            pairs += 1;
        }
    }
    println!("{pairs} pairs of an action and a place");
    expect_none(&complaints);
}

/// The variable USOCKETS_MISUSE_PLACE restricts the table to one place.
fn selected(place: Place) -> bool {
    std::env::var("USOCKETS_MISUSE_PLACE").map_or(true, |only| only == format!("{place:?}"))
}

/// Actions in several places of one world, chosen by chance. USOCKETS_MISUSE_SEED and
/// USOCKETS_MISUSE_ROUNDS say which and how many.
#[test]
fn actions_in_several_places() {
    let guard = util::alone_for(PAIR_MAX);
    world::make_shared();
    let (seed, rounds) = (number("SEED", 1), number("ROUNDS", 1000));
    let (actions, mut complaints) = (Action::all(), Vec::new());
    println!("{rounds} rounds from seed {seed}");
    for round in 0..rounds {
        let mut random = util::Random::new((seed + round).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut choose =
            || (PLACES[random.below(PLACES.len())], actions[random.below(actions.len())]);
        let plan: Vec<_> = (0..2 + round % 4).map(|_| choose()).collect();
        let step = format!("seed {} ({plan:?})", seed + round);
        guard.step(&step);
        let faults = run(plan, round % 2 == 1);
        complaints.extend(faults.iter().map(|fault| format!("{step}: {fault}")));
    }
    expect_none(&complaints);
}

/// A number from the environment.
fn number(name: &str, default: u64) -> u64 {
    let text = std::env::var(format!("USOCKETS_MISUSE_{name}"));
    text.ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}
