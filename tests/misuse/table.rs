//! All pairs of a place and an action, and some of them at a time.

use std::ops::Range;
use std::time::Duration;

use crate::actions::{Action, Which};
use crate::deeds::Deed;
use crate::places::Place;
use crate::world::{self, World};
use crate::{SSL, script, util};

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

pub(crate) use list;

/// How long one pair may take, of some thousand.
const PAIR_MAX: Duration = Duration::from_secs(10);

/// Runs the script once, with these actions in these places, and returns what went wrong.
fn run(plan: Vec<(Place, Action)>, by_run: bool, part: Option<Range<usize>>) -> Vec<String> {
    let descriptors = util::Descriptors::now();
    let world = World::new(plan, by_run);
    let mut faults = script::play(&world, part);
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
        assert_eq!(script::play(&world, None), Vec::<String>::new());
        let missed: Vec<Place> =
            Place::all().into_iter().filter(|place| !world.was_visited(*place)).collect();
        assert_eq!(missed, Vec::new(), "places that were not visited");
    }
}

#[test]
fn every_action_in_every_place() {
    let guard = util::alone_for(PAIR_MAX);
    world::make_shared();
    let (mut complaints, mut pairs, mut number) = (Vec::new(), 0, 0);
    let parts = parts();
    for place in Place::all().into_iter().filter(|place| selected(*place)) {
        let part = parts(place);
        for action in Action::all() {
            number += 1;
            if !is_taken(place, action, number) {
                continue;
            }
            let pair = format!("{action:?} in {place:?}");
            guard.step(&pair);
            let faults = run(vec![(place, action)], pairs % 2 == 1, part.clone());
            complaints.extend(faults.iter().map(|fault| format!("{pair}: {fault}")));
            pairs += 1;
        }
    }
    println!("{pairs} pairs of an action and a place");
    expect_none(&complaints);
}

/// Tells which part of the script comes to a place: all of it or, where steps take long, what is needed.
fn parts() -> impl Fn(Place) -> Option<Range<usize>> {
    let nothing = |place| vec![(place, Action::Do(Deed::Nothing))];
    let world = World::new(nothing(Place::Data), false);
    let _faults = script::play(&world, None);
    move |place| {
        let step = world.first_visit(place).filter(|_| SSL)?;
        // The one before prepares some.
        let part = step.saturating_sub(1)..step.saturating_add(1);
        run(nothing(place), false, Some(part.clone())).is_empty().then_some(part)
    }
}

/// Handshakes take long: over TLS most of what has nothing to do with it is left to the plain table. The
/// variable USOCKETS_MISUSE_ALL takes all.
fn is_taken(place: Place, action: Action, number: usize) -> bool {
    let on_another = matches!(action, Action::On(which, _) if which != Which::This);
    let is_of_tls = place.is_of_tls() || matches!(action, Action::Tls(_));
    // One of so many; none divides the number of actions, so that each comes to be in some place.
    let share = match (place.is_of_tls(), is_of_tls) {
        _ if !SSL || std::env::var_os("USOCKETS_MISUSE_ALL").is_some() => 1,
        (true, _) if !on_another => 1,
        (_, true) => 7,
        _ => 49,
    };
    number % share == 0
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
    let (seed, rounds) = (number("SEED", 1), number("ROUNDS", if SSL { 100 } else { 1000 }));
    let (places, actions, mut complaints) = (Place::all(), Action::all(), Vec::new());
    println!("{rounds} rounds from seed {seed}");
    for round in 0..rounds {
        let mut random = util::Random::new((seed + round).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut choose =
            || (places[random.below(places.len())], actions[random.below(actions.len())]);
        let plan: Vec<_> = (0..2 + round % 4).map(|_| choose()).collect();
        let step = format!("seed {} ({plan:?})", seed + round);
        guard.step(&step);
        let faults = run(plan, round % 2 == 1, None);
        complaints.extend(faults.iter().map(|fault| format!("{step}: {fault}")));
    }
    expect_none(&complaints);
}

/// A number from the environment.
fn number(name: &str, default: u64) -> u64 {
    let text = std::env::var(format!("USOCKETS_MISUSE_{name}"));
    text.ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}
