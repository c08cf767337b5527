//! What is committed together, in which order, and what one piece can do to the others.

use std::sync::{Arc, Mutex};

use super::*;
use crate::store::writer::{BATCH, Patience, QUEUE};

#[test]
fn nobody_is_answered_before_the_commit() {
    let rig = Rig::start();
    let gate = rig.close_gate();
    let mut first = rig.note(Lane::Open, "first");
    let (stop, stopped) = mpsc::channel::<()>();
    let (entered, inside) = mpsc::channel();
    let last = rig.submit(Lane::Open, move |_| {
        let _ = entered.send(());
        let _ = stopped.recv();
        Ok(())
    });
    drop(gate);
    inside.recv_timeout(PATIENCE).expect("the last piece runs");
    // The first piece has run, and waits for the transaction that it shares with the last.
    assert!(waits(&mut first));
    assert_eq!(rig.notes(), [""; 0]);
    drop(stop);
    answer(first).expect("a note");
    assert_eq!(rig.notes(), ["first"]);
    answer(last).expect("an answer");
}

#[test]
fn what_comes_while_a_batch_is_made_is_committed_with_it() {
    let rig = Rig::start();
    let gate = rig.close_gate();
    let notes: Vec<_> = (0..300).map(|at| rig.note(Lane::Open, &format!("{at:03}"))).collect();
    assert_eq!(rig.counts().opens_waiting, 300);
    drop(gate);
    for note in notes {
        answer(note).expect("a note");
    }
    let counts = rig.counts();
    assert_eq!((counts.batches, counts.items, counts.largest_batch), (2, 301, BATCH as u64));
    assert!(counts.last_commit_us > 0 && counts.commits_us >= counts.last_commit_us);
    assert_eq!(rig.notes().len(), 300);
}

#[test]
fn a_piece_that_fails_takes_nothing_of_the_others_with_it() {
    let rig = Rig::start();
    let gate = rig.close_gate();
    let one = rig.note(Lane::Open, "one");
    let twice = rig.submit(Lane::Open, |conn| {
        note(conn, "left over", 0)?;
        Ok(note(conn, "one", 0)?)
    });
    let refused = rig.submit(Lane::Open, |conn| {
        note(conn, "refused", 0)?;
        Err::<(), _>(Error::BudgetExceeded.into())
    });
    let two = rig.note(Lane::Open, "two");
    drop(gate);
    answer(one).expect("a note");
    assert!(is_unavailable(&answer(twice)));
    assert!(matches!(answer(refused), Err(Error::BudgetExceeded)));
    answer(two).expect("a note");
    assert_eq!(rig.notes(), ["one", "two"]);
    assert_eq!(rig.counts().batches, 1);
}

#[test]
fn a_piece_that_panics_is_refused_alone() {
    let rig = Rig::start();
    let gate = rig.close_gate();
    let before = rig.note(Lane::Open, "before");
    let bare = rig.submit::<()>(Lane::Open, |conn| {
        note(conn, "bare", 0)?;
        panic!("a test's panic")
    });
    let between = rig.note(Lane::Close, "between");
    let nested = rig.submit::<()>(Lane::Close, |conn| {
        note(conn, "nested", 0)?;
        conn.transaction(|conn| {
            note(conn, "deeper", 0)?;
            conn.transaction(|conn| {
                note(conn, "deepest", 0)?;
                panic!("a test's panic in a savepoint")
            })
        })
    });
    let after = rig.note(Lane::Open, "after");
    drop(gate);
    assert!(matches!(answer(bare), Err(Error::Internal(_))));
    assert!(matches!(answer(nested), Err(Error::Internal(_))));
    for note in [before, between, after] {
        answer(note).expect("a note");
    }
    assert_eq!(rig.notes(), ["after", "before", "between"]);
    assert_eq!(rig.counts().panics, 2);
    // The connection is as good as before.
    answer(rig.note(Lane::Open, "later")).expect("a note");
}

#[test]
fn after_too_many_panics_the_server_is_told_and_work_goes_on() {
    let mut rig = Rig::start();
    for at in 0..4 {
        assert!(matches!(rig.gone.try_recv(), Err(TryRecvError::Empty)), "told after {at}");
        let poison = rig.submit::<()>(Lane::Open, |_| panic!("a test's panic"));
        assert!(matches!(answer(poison), Err(Error::Internal(_))));
    }
    until(|| matches!(rig.gone.try_recv(), Err(TryRecvError::Closed)));
    answer(rig.note(Lane::Close, "settled")).expect("a note");
    rig.stop();
    assert_eq!(rig.notes(), ["settled"]);
}

#[test]
fn a_piece_that_ends_the_transaction_is_refused_and_nothing_is_half_committed() {
    let rig = Rig::start();
    answer(rig.note(Lane::Open, "there")).expect("a note");
    let gate = rig.close_gate();
    let before = rig.note(Lane::Close, "before");
    let fatal = rig.submit(Lane::Close, |conn| {
        note(conn, "lost", 0)?;
        conn.transaction(|conn| {
            let rows =
                diesel::sql_query("INSERT OR ROLLBACK INTO note (name) VALUES ('there')").execute(conn)?;
            Ok::<_, WriteError>(rows)
        })
    });
    let after = rig.note(Lane::Open, "after");
    drop(gate);
    assert!(matches!(answer(fatal), Err(Error::Internal(_))));
    answer(before).expect("a note");
    answer(after).expect("a note");
    assert_eq!(rig.notes(), ["after", "before", "there"]);
}

/// Notes in which order pieces ran.
#[derive(Clone, Default)]
struct Order(Arc<Mutex<Vec<String>>>);

impl Order {
    fn submit(&self, rig: &Rig, lane: Lane, account: &str, name: &str) -> Answer<()> {
        let work = self.note(name);
        let queued = match lane {
            Lane::Open => rig.writer.open_for(account, None, work),
            lane => rig.writer.submit(lane, work),
        };
        queued.expect("a place in the queue")
    }

    fn submit_patient(&self, rig: &Rig, name: &str) -> (Answer<()>, Patience) {
        let patience = Patience::default();
        let queued = rig.writer.open_for("somebody", Some(patience.clone()), self.note(name));
        (queued.expect("a place in the queue"), patience)
    }

    fn note(&self, name: &str) -> impl FnMut(&mut SqliteConnection) -> Result<(), WriteError> + Send + use<> {
        let (order, name) = (self.clone(), name.to_owned());
        move |_| {
            order.0.lock().expect("an order").push(name.clone());
            Ok(())
        }
    }

    fn so_far(&self) -> Vec<String> {
        self.0.lock().expect("an order").clone()
    }
}

#[test]
fn work_that_nobody_waits_for_is_passed_over_once_and_only_for_other_work() {
    let rig = Rig::start();
    let order = Order::default();
    let (alone, _) = order.submit_patient(&rig, "alone");
    answer(alone).expect("an answer");
    let gate = rig.close_gate();
    let (patient, _) = order.submit_patient(&rig, "patient");
    let (hurried, patience) = order.submit_patient(&rig, "hurried");
    patience.end();
    let other = order.submit(&rig, Lane::Open, "nobody", "other");
    assert_eq!(rig.counts().opens_waiting, 3);
    let before = rig.counts();
    drop(gate);
    for each in [hurried, other, patient] {
        answer(each).expect("an answer");
    }
    assert_eq!(order.so_far(), ["alone", "other", "hurried", "patient"]);
    let batches = rig.counts().batches - before.batches;
    assert_eq!(batches, 2, "that of the gate, which the two came to, and that of the patient one");
}

#[test]
fn no_other_work_of_its_account_goes_before_work_that_is_passed_over() {
    let rig = Rig::start();
    let (order, gate) = (Order::default(), rig.close_gate());
    let (promised, _) = order.submit_patient(&rig, "promised");
    let other = order.submit(&rig, Lane::Open, "somebody", "other");
    let (patient, _) = order.submit_patient(&rig, "patient");
    drop(gate);
    for each in [promised, other, patient] {
        answer(each).expect("an answer");
    }
    assert_eq!(order.so_far(), ["promised", "other", "patient"]);
}

#[test]
fn a_greedy_account_delays_others_by_no_more_than_a_batch() {
    let rig = Rig::start();
    let (order, gate) = (Order::default(), rig.close_gate());
    let greedy: Vec<_> = (0..2_000).map(|_| order.submit(&rig, Lane::Open, "greedy", "greedy")).collect();
    let modest = ["one", "two", "three"].map(|name| order.submit(&rig, Lane::Open, name, name));
    drop(gate);
    for served in greedy.into_iter().chain(modest) {
        answer(served).expect("an answer");
    }
    assert_eq!(order.so_far()[..6], ["greedy", "one", "two", "three", "greedy", "greedy"]);
    assert_eq!(order.so_far().len(), 2_003);
}

#[test]
fn what_closes_goes_ahead_of_what_opens() {
    let rig = Rig::start();
    let (order, gate) = (Order::default(), rig.close_gate());
    let mut served: Vec<_> = (0..300).map(|_| order.submit(&rig, Lane::Open, "a", "open")).collect();
    served.extend((0..3).map(|_| order.submit(&rig, Lane::Close, "a", "close")));
    served.push(order.submit(&rig, Lane::Mark, "a", "mark"));
    drop(gate);
    for served in served {
        answer(served).expect("an answer");
    }
    assert_eq!(order.so_far()[..5], ["close", "close", "close", "mark", "open"]);
}

#[test]
fn new_work_and_marks_are_bounded_and_closes_are_not() {
    let rig = Rig::start();
    let gate = rig.close_gate();
    let nothing = |_: &mut SqliteConnection| Ok(());
    for lane in [Lane::Open, Lane::Mark] {
        for _ in 0..QUEUE {
            rig.writer.submit(lane, nothing).expect("a place in the queue");
        }
        assert!(matches!(rig.writer.submit(lane, nothing), Err(Error::Overloaded)));
    }
    rig.writer.submit(Lane::Close, nothing).expect("a place for what closes");
    assert_eq!(rig.counts().refused_opens, 1);
    drop(gate);
    until(|| rig.counts().items == 2 * QUEUE as u64 + 2);
}

#[test]
fn a_stop_finishes_what_is_queued_and_takes_no_more() {
    let mut rig = Rig::start();
    let gate = rig.close_gate();
    let queued = rig.note(Lane::Open, "queued");
    rig.writer.stop();
    assert!(matches!(rig.writer.submit(Lane::Close, |_| Ok(())), Err(Error::Draining)));
    drop(gate);
    answer(queued).expect("a note");
    rig.stop();
    assert_eq!(rig.notes(), ["queued"]);
    assert_eq!(rig.log_bytes(), 0, "the log is merged");
}

#[test]
fn whoever_waits_for_a_thread_that_has_ended_is_told() {
    let mut rig = Rig::start();
    rig.stop();
    assert!(is_unavailable(&rig.writer.submit(Lane::Close, |_| Ok(()))));
    until(|| matches!(rig.gone.try_recv(), Err(TryRecvError::Closed)));
}
