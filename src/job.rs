//! A closure that is to run once, on another thread, without an allocation if it is small.

use std::any::TypeId;
use std::fmt;
use std::marker::PhantomData;
use std::mem::{ManuallyDrop, MaybeUninit};

/// Size of the closures that are stored in the job itself: three words, which with the table is
/// half a cache line. That holds an `Arc`, an id and a number.
const INLINE_WORDS: usize = 3;

/// The closure itself, or a pointer to the box that holds it; [`Kind::INLINE`] tells which.
type Storage = MaybeUninit<[usize; INLINE_WORDS]>;

/// Something that can be run once with an `&A`: every suitable closure, and types that can be taken
/// out of a job again by their name.
pub(crate) trait Run<A: ?Sized>: Send + 'static {
    /// Runs and thereby consumes it.
    fn run(self, argument: &A);
}

impl<A: ?Sized, F: FnOnce(&A) + Send + 'static> Run<A> for F {
    fn run(self, argument: &A) {
        self(argument);
    }
}

/// A closure of any type, to be run once with an `&A`. Dropping it drops the closure unrun.
///
/// It is `Send` because [`Run`] is: what is in the storage can be moved to another thread. It is
/// `Sync` because nothing can be reached through a shared reference to it.
pub(crate) struct Job<A: ?Sized + 'static> {
    /// Holds a valid closure from `new` until `run`, `downcast` or `drop` moves it out.
    storage: Storage,
    /// The functions for the type that `storage` holds.
    table: &'static Table<A>,
}

impl<A: ?Sized + 'static> Job<A> {
    /// Stores `closure`, in a box if it is larger than three words or has an unusual alignment.
    pub(crate) fn new<F: Run<A>>(closure: F) -> Self {
        Self { storage: Kind::<A, F>::store(closure), table: Kind::<A, F>::TABLE }
    }

    /// Runs the closure. If it panics, it is gone all the same.
    pub(crate) fn run(self, argument: &A) {
        let job = ManuallyDrop::new(self);
        // SAFETY: I7: `storage` is valid until moved out, `table` belongs to it, and `job` is
        // neither used nor dropped afterwards.
        unsafe { (job.table.run)(&raw const job.storage, argument) }
    }

    /// Gives the closure back if it is an `F`, or else the job.
    pub(crate) fn downcast<F: Run<A>>(self) -> Result<F, Self> {
        if (self.table.type_id)() != TypeId::of::<F>() {
            return Err(self);
        }
        let job = ManuallyDrop::new(self);
        // SAFETY: I7: `storage` is valid until moved out, it was just seen to hold an `F`, and `job`
        // is neither used nor dropped afterwards.
        Ok(unsafe { Kind::<A, F>::take(&raw const job.storage) })
    }
}

impl<A: ?Sized + 'static> Drop for Job<A> {
    fn drop(&mut self) {
        // SAFETY: I7: whoever moves the closure out prevents this drop, so it is still there.
        unsafe { (self.table.drop)(&raw const self.storage) }
    }
}

impl<A: ?Sized + 'static> fmt::Debug for Job<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job").finish_non_exhaustive()
    }
}

/// What can be done with a storage of which only the table remembers the type.
struct Table<A: ?Sized> {
    /// Moves the closure out and runs it.
    run: unsafe fn(*const Storage, &A),
    /// Moves the closure out and drops it.
    drop: unsafe fn(*const Storage),
    /// The closure's type.
    type_id: fn() -> TypeId,
}

/// A type of closure, and how it is stored.
struct Kind<A: ?Sized, F>(PhantomData<F>, PhantomData<A>);

impl<A: ?Sized + 'static, F: Run<A>> Kind<A, F> {
    const INLINE: bool =
        size_of::<F>() <= size_of::<Storage>() && align_of::<F>() <= align_of::<Storage>();

    const TABLE: &'static Table<A> =
        &Table { run: Self::run, drop: Self::drop, type_id: TypeId::of::<F> };

    fn store(closure: F) -> Storage {
        let mut storage = Storage::uninit();
        if Self::INLINE {
            // SAFETY: I7: size and alignment were compared by `INLINE`.
            unsafe { storage.as_mut_ptr().cast::<F>().write(closure) };
        } else {
            let boxed = Box::into_raw(Box::new(closure));
            // SAFETY: I7: a storage has the size and alignment of several thin pointers.
            unsafe { storage.as_mut_ptr().cast::<*mut F>().write(boxed) };
        }
        storage
    }

    /// Moves the closure out.
    ///
    /// # Safety
    ///
    /// `storage` was made by [`Self::store`], and the closure is still in it.
    unsafe fn take(storage: *const Storage) -> F {
        if Self::INLINE {
            // SAFETY: I7: `store` wrote an `F` to this place; the caller vouches for the rest.
            unsafe { storage.cast::<F>().read() }
        } else {
            // SAFETY: I7: the caller vouches for what `unbox` asks, and this is not `INLINE`.
            *unsafe { Self::unbox(storage) }
        }
    }

    /// Takes the box back.
    ///
    /// # Safety
    ///
    /// As for [`Self::take`], for a type that is not [`Self::INLINE`].
    unsafe fn unbox(storage: *const Storage) -> Box<F> {
        // SAFETY: I7: `store` wrote a pointer to this place.
        let boxed = unsafe { storage.cast::<*mut F>().read() };
        // SAFETY: I7: the pointer came from `Box::into_raw`, and the caller vouches that it is
        // taken back only once.
        unsafe { Box::from_raw(boxed) }
    }

    /// # Safety
    ///
    /// As for [`Self::take`].
    unsafe fn run(storage: *const Storage, argument: &A) {
        // SAFETY: I7: the caller vouches for it.
        unsafe { Self::take(storage) }.run(argument);
    }

    /// # Safety
    ///
    /// As for [`Self::take`].
    unsafe fn drop(storage: *const Storage) {
        if Self::INLINE {
            // SAFETY: I7: the caller vouches for it.
            drop(unsafe { Self::take(storage) });
        } else {
            // Not by `take`, which would move a large closure to the stack.
            // SAFETY: I7: the caller vouches for it, and this is not `INLINE`.
            drop(unsafe { Self::unbox(storage) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::cell::Cell;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::rc::Rc;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// The argument of the jobs here: not `Send`, as the loop is.
    type Sum = Rc<Cell<usize>>;

    #[derive(Clone, Default)]
    struct Drops(Arc<AtomicUsize>);

    impl Drops {
        fn count(&self) -> usize {
            self.0.load(Ordering::SeqCst)
        }

        fn token(&self) -> Token {
            Token(Arc::clone(&self.0))
        }
    }

    struct Token(Arc<AtomicUsize>);

    impl Drop for Token {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn assert_send_sync<T: Send + Sync>() {}

    fn is_inline<F: Run<Sum>>(_: &F) -> bool {
        Kind::<Sum, F>::INLINE
    }

    #[test]
    fn a_job_is_half_a_cache_line_and_can_change_threads() {
        assert_eq!(size_of::<Job<Sum>>(), 4 * size_of::<usize>());
        assert_send_sync::<Job<Sum>>();
    }

    #[test]
    fn closures_of_all_sizes_run_once() {
        let sum = Sum::default();
        let drops = Drops::default();

        Job::<Sum>::new(|sum: &Sum| sum.set(sum.get() + 1)).run(&sum);

        let token = drops.token();
        let small = move |sum: &Sum| {
            let _token = token;
            sum.set(sum.get() + 10);
        };
        assert!(is_inline(&small));
        Job::<Sum>::new(small).run(&sum);

        let (token, two) = (drops.token(), [40, 60]);
        let full = move |sum: &Sum| {
            let _token = &token;
            sum.set(sum.get() + two[0] + two[1]);
        };
        assert!(is_inline(&full));
        Job::<Sum>::new(full).run(&sum);

        let (token, many) = (drops.token(), [100; 10]);
        let large = move |sum: &Sum| {
            let _token = &token;
            sum.set(sum.get() + many.iter().sum::<usize>());
        };
        assert!(!is_inline(&large));
        Job::<Sum>::new(large).run(&sum);

        assert_eq!(sum.get(), 1111);
        assert_eq!(drops.count(), 3);
    }

    #[test]
    fn an_over_aligned_closure_keeps_its_alignment() {
        #[repr(align(64))]
        struct Aligned(u8);

        let sum = Sum::default();
        let value = Aligned(7);
        let closure = move |sum: &Sum| {
            let value = &value;
            assert_eq!(std::ptr::from_ref(value).addr() % 64, 0);
            sum.set(usize::from(value.0));
        };
        assert!(!is_inline(&closure));
        Job::<Sum>::new(closure).run(&sum);
        assert_eq!(sum.get(), 7);
    }

    #[test]
    fn dropping_a_job_drops_the_closure_unrun() {
        let drops = Drops::default();
        let token = drops.token();
        drop(Job::<Sum>::new(move |_: &Sum| {
            let _token = token;
            unreachable!("the job was dropped");
        }));
        let (token, ballast) = (drops.token(), [0_u64; 16]);
        drop(Job::<Sum>::new(move |_: &Sum| {
            let _moved = (token, ballast);
            unreachable!("the job was dropped");
        }));
        assert_eq!(drops.count(), 2);
    }

    #[test]
    fn a_panic_consumes_the_closure_once() {
        let sum = Sum::default();
        let drops = Drops::default();
        let token = drops.token();
        let small = Job::<Sum>::new(move |_: &Sum| {
            let _token = &token;
            panic!("small");
        });
        let (token, ballast) = (drops.token(), [0_u64; 16]);
        let large = Job::<Sum>::new(move |_: &Sum| {
            let _moved = (&token, ballast);
            panic!("large");
        });
        for job in [small, large] {
            assert!(catch_unwind(AssertUnwindSafe(|| job.run(&sum))).is_err());
        }
        assert_eq!(drops.count(), 2);
    }

    #[test]
    fn a_job_gives_its_closure_back_to_whoever_names_the_type() {
        struct Add {
            number: usize,
            _token: Token,
            _ballast: [usize; 2],
        }

        impl Run<Sum> for Add {
            fn run(self, sum: &Sum) {
                sum.set(sum.get() + self.number);
            }
        }

        let drops = Drops::default();
        let job = Job::<Sum>::new(Add { number: 5, _token: drops.token(), _ballast: [0; 2] });
        let job = job.downcast::<fn(&Sum)>().expect_err("it is an `Add`");
        let add = job.downcast::<Add>().expect("it is an `Add`");
        assert_eq!((add.number, drops.count()), (5, 0));

        let sum = Sum::default();
        Job::new(add).run(&sum);
        assert_eq!((sum.get(), drops.count()), (5, 1));

        let function: fn(&Sum) = |sum| sum.set(9);
        let function = Job::<Sum>::new(function).downcast::<fn(&Sum)>().expect("it is a function");
        function(&sum);
        assert_eq!(sum.get(), 9);
    }

    #[test]
    fn a_job_runs_on_another_thread_than_it_was_made() {
        let text = String::from("made elsewhere");
        let job = Job::<str>::new(move |expected: &str| assert_eq!(text, expected));
        std::thread::spawn(move || job.run("made elsewhere")).join().expect("the job ran");
    }
}
