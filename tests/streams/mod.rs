//! Tests of what does not depend on how bytes travel. Each of the programs that include this file says in
//! `SSL` whether they travel encrypted.

mod echo;
mod half_close;
mod lingering;
mod output;
mod pause_resume;

use crate::{SSL, util};

/// Records of contexts of the kind that is tested.
type Record<S = ()> = util::Record<S, SSL>;
