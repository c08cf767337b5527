//! The crash matrix, row by row: the server dies at a named point, alone with one call and under load; what it
//! leaves, what the next start makes of it, and what the client saw.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::app::{App, eventually};
use crate::crash_load::{Load, START, Tally, Turn, check, each_answer_is_charged_once, echo, price, quick};
use crate::database::{Hold, Snapshot};
use crate::failpoints::{arm, dying_at, wait_for_death};
use crate::script::{Reply, Script};

/// The pieces of an answer.
const PIECES: usize = 12;

/// One call to a server that dies of it.
struct Death {
    app: App,
    turn: Turn,
    before: Snapshot,
}

/// One call, at whose `times`-th passing of `point` the server dies.
fn alone(point: &str, times: u64, stream: bool) -> Death {
    let app = dying_at(point, times);
    app.upstream.choose(quick(PIECES, Duration::from_millis(2)));
    run_to_death(app, stream)
}

fn run_to_death(mut app: App, stream: bool) -> Death {
    let mut turn = Turn::new("alone", "alone-0 ", stream);
    turn.run(&app, &mpsc::channel().0);
    wait_for_death(&mut app);
    let before = Snapshot::dead(&app);
    Death { app, turn, before }
}

impl Death {
    /// The matrix's "after restart", which is the same for every row, and then the end of the test. Answers what
    /// the restart made of the one hold.
    fn restart(self) -> Option<Hold> {
        let Self { mut app, turn, before } = self;
        let died = Instant::now();
        arm(&mut app, None);
        app.start_again();
        let after = before.holds.keys().next().map(|id| Snapshot::live(&app).holds[id].clone());
        check(&app, &before, std::slice::from_ref(&turn), died, &mut Tally::default());
        app.finish();
        after
    }

    /// Nothing had come to the client, not even a head.
    fn unanswered(&self) {
        assert_eq!((self.turn.completion.as_ref(), self.turn.pieces), (None, 0), "{:?}", self.turn);
    }

    /// The client had not seen the end.
    fn without_the_end(&self) {
        assert!(!self.turn.whole, "the end was seen of {:?}", self.turn);
    }
}

fn is_open(hold: &Hold, mark_output: i64) {
    assert_eq!((hold.state.as_str(), hold.mark_output), ("open", mark_output), "{hold:?}");
    assert_eq!(hold.mark_prompt == 0, mark_output == 0, "{hold:?}");
}

#[test]
fn dying_after_a_request_has_come_leaves_nothing() {
    for stream in [true, false] {
        let death = alone("request received", 1, stream);
        death.unanswered();
        assert!(death.before.holds.is_empty(), "{:?}", death.before);
        assert_eq!(death.app.upstream.asked(), 0);
        death.restart();
    }
}

#[test]
fn dying_before_a_reserve_is_committed_leaves_nothing() {
    for stream in [true, false] {
        let death = alone("reserve executed", 1, stream);
        death.unanswered();
        assert!(death.before.holds.is_empty(), "{:?}", death.before);
        assert_eq!((death.before.held, death.app.upstream.asked()), (0, 0));
        death.restart();
    }
}

#[test]
fn dying_between_the_reserve_and_the_provider_gives_the_hold_back() {
    for stream in [true, false] {
        let death = alone("reserve committed", 1, stream);
        death.unanswered();
        is_open(death.before.only_hold(), 0);
        assert_eq!(death.before.held, death.before.only_hold().amount);
        assert_eq!(death.app.upstream.asked(), 0, "the provider was asked");
        assert_eq!(death.restart().expect("a hold").state, "released");
    }
}

#[test]
fn dying_before_the_first_checkpoint_charges_nothing() {
    for (point, times, stream) in
        [("provider answers", 1, true), ("provider answers", 1, false), ("delta passed on", 7, true)]
    {
        let death = alone(point, times, stream);
        death.without_the_end();
        assert!(death.turn.pieces <= 7, "{:?}", death.turn);
        is_open(death.before.only_hold(), 0);
        assert_eq!(death.app.upstream.asked(), 1);
        let after = death.restart().expect("a hold");
        assert_eq!((after.state.as_str(), after.reason.as_deref()), ("released", Some("crash")));
    }
}

/// A server that is to die at `point` while a client waits after nine pieces of its stream.
fn paused_after_nine(point: &str) -> (App, crate::upstream::Gate) {
    let app = dying_at(point, 1);
    let gate = app.upstream.gate();
    let held = gate.clone();
    app.upstream.choose(move |request| echo(request, PIECES).pause_after(9, &held).into());
    (app, gate)
}

#[test]
fn dying_after_a_checkpoint_charges_what_it_says() {
    let (app, gate) = paused_after_nine("checkpoint written");
    let death = run_to_death(app, true);
    gate.open();
    death.without_the_end();
    assert_eq!(death.turn.pieces, 9, "everything that had come was seen");
    is_open(death.before.only_hold(), 9);
    let after = death.restart().expect("a hold");
    assert_eq!((after.state.as_str(), after.output), ("settled", Some(9)));
}

#[test]
fn dying_with_the_whole_answer_before_its_charge_is_committed_charges_the_last_checkpoint() {
    for point in ["all received", "settle executed"] {
        let (mut app, gate) = paused_after_nine(point);
        let mut turn = Turn::new("alone", "alone-0 ", true);
        std::thread::scope(|scope| {
            scope.spawn(|| turn.run(&app, &mpsc::channel().0));
            eventually("the checkpoint is written", || {
                let open = Snapshot::live(&app);
                open.in_state("open").any(|hold| hold.mark_output == 9).then_some(())
            });
            gate.open();
        });
        wait_for_death(&mut app);
        let before = Snapshot::dead(&app);
        let death = Death { app, turn, before };
        death.without_the_end();
        is_open(death.before.only_hold(), 9);
        let after = death.restart().expect("a hold");
        assert_eq!((after.state.as_str(), after.output), ("settled", Some(9)), "{point}");
    }
}

#[test]
fn dying_with_a_short_answer_before_its_charge_is_committed_charges_nothing() {
    for point in ["all received", "settle executed"] {
        for stream in [true, false] {
            let death = alone(point, 1, stream);
            death.without_the_end();
            is_open(death.before.only_hold(), 0);
            assert_eq!(death.restart().expect("a hold").state, "released", "{point}");
        }
    }
}

#[test]
fn dying_after_the_charge_keeps_it_and_the_answer_is_given_again() {
    for stream in [true, false] {
        let death = alone("settle committed", 1, stream);
        death.without_the_end();
        let hold = death.before.only_hold().clone();
        assert_eq!((hold.state.as_str(), hold.output), ("settled", Some(PIECES as i64)));
        assert_eq!(hold.source.as_deref(), Some("upstream"));
        // That the retry is a replay, and free, is checked after each restart.
        assert_eq!(death.restart(), Some(hold));
    }
}

#[test]
fn dying_with_the_final_frame_on_its_way_changes_nothing() {
    for stream in [true, false] {
        let death = alone("final frame handed over", 1, stream);
        let hold = death.before.only_hold().clone();
        assert_eq!(hold.state, "settled");
        assert_eq!(death.restart(), Some(hold));
    }
}

#[test]
fn killed_when_the_client_has_seen_the_end_it_changes_nothing() {
    for stream in [true, false] {
        let mut app = App::start();
        app.upstream.choose(quick(PIECES, Duration::ZERO));
        let mut turn = Turn::new("alone", "alone-0 ", stream);
        turn.run(&app, &mpsc::channel().0);
        app.kill();
        assert!(turn.whole);
        let before = Snapshot::dead(&app);
        let hold = before.only_hold().clone();
        assert_eq!(hold.state, "settled");
        let died = Instant::now();
        app.start_again();
        check(&app, &before, std::slice::from_ref(&turn), died, &mut Tally::default());
        assert_eq!(Snapshot::live(&app).only_hold(), &hold);
        assert!(turn.again(&app).replayed);
        each_answer_is_charged_once(&app);
        app.finish();
    }
}

#[test]
fn a_recovery_that_dies_at_any_point_is_made_again_and_charges_once() {
    const MARKED: usize = 4;
    const SILENT: usize = 3;
    let mut app = App::start();
    let gate = app.upstream.gate();
    let held = gate.clone();
    app.upstream.choose(move |request| match request.last_text().starts_with("silent") {
        true => Script::Silence,
        false => echo(request, PIECES).pause_after(5, &held).into(),
    });
    let mut turns: Vec<Turn> = Vec::new();
    turns.extend((0..MARKED).map(|at| Turn::new(&format!("m{at}"), &format!("marked-{at} "), true)));
    turns.extend((0..SILENT).map(|at| Turn::new(&format!("s{at}"), &format!("silent-{at} "), at % 2 == 0)));
    let events = mpsc::channel().0;
    let pid = app.pid();
    std::thread::scope(|scope| {
        for turn in &mut turns {
            let (app, events) = (&app, events.clone());
            scope.spawn(move || turn.run(app, &events));
        }
        eventually("every call has come so far", || {
            let now = Snapshot::live(&app);
            let marked = now.in_state("open").filter(|hold| hold.mark_output == 5).count();
            (marked == MARKED && now.in_state("open").count() == MARKED + SILENT).then_some(())
        });
        crate::app::kill_at_once(pid);
    });
    app.wait_for_exit();
    let died = Instant::now();
    let before = Snapshot::dead(&app);
    for times in 1..=(MARKED + SILENT) as u64 {
        arm(&mut app, Some(("hold recovered", times)));
        app.begin_again();
        wait_for_death(&mut app);
        assert_eq!(Snapshot::dead(&app), before, "half of a recovery was kept");
    }
    arm(&mut app, Some(("recovery committed", 1)));
    app.begin_again();
    wait_for_death(&mut app);
    let after = Snapshot::dead(&app);
    assert_eq!((after.held, after.in_state("open").count()), (0, 0));
    assert_eq!(after.in_state("released").count(), SILENT);
    assert_eq!(after.in_state("settled").filter(|hold| hold.output == Some(5)).count(), MARKED);
    arm(&mut app, None);
    app.upstream.choose(quick(PIECES, Duration::ZERO));
    app.start_again();
    assert_eq!(Snapshot::live(&app), after, "what was recovered is recovered again");
    check(&app, &before, &turns, died, &mut Tally::default());
    gate.open();
    app.finish();
}

#[test]
fn a_top_up_whose_answer_was_lost_is_one_credit_however_often_it_is_tried() {
    let mut app = dying_at("top-up committed", 1);
    let path = format!("/admin/accounts/{}/credit", app.account_id);
    let body = json!({"amount": "2.5", "external_ref": "payment-1"});
    let call = app.call("POST", &path).key(&app.operator_token).json(&body);
    assert!(call.try_send().is_err(), "the dying server answers");
    wait_for_death(&mut app);
    let top_ups = |entries: &Snapshot| entries.entries.iter().filter(|row| row.kind == "topup").count();
    assert_eq!(top_ups(&Snapshot::dead(&app)), 1);
    arm(&mut app, None);
    app.start_again();
    for _ in 0..3 {
        app.post(&app.operator_token, &path, &body).is(200);
    }
    assert_eq!(top_ups(&Snapshot::live(&app)), 1);
    assert_eq!(app.balance().balance, START + 2_500_000_000);
    let other = json!({"amount": "2.6", "external_ref": "payment-1"});
    app.post(&app.operator_token, &path, &other).refused(
        422,
        "invalid_request_error",
        "idempotency_mismatch",
    );
    app.finish();
}

/// Several sessions at once, streams and plain calls, and a death at each of these passings of the point.
fn under_load(point: &str, deaths: &[u64]) {
    const LOAD: Load = Load { clients: 8, turns: 12 };
    let mut tally = Tally::default();
    let mut app = dying_at(point, deaths[0]);
    app.upstream.choose(quick(PIECES, Duration::from_millis(1)));
    for (round, times) in deaths.iter().enumerate() {
        if round > 0 {
            arm(&mut app, Some((point, *times)));
            app.restart();
        }
        let ran = LOAD.run(&app, &format!("r{round}"), mpsc::channel().0, || {});
        wait_for_death(&mut app);
        let died = Instant::now();
        let before = Snapshot::dead(&app);
        arm(&mut app, None);
        app.start_again();
        check(&app, &before, &ran, died, &mut tally);
    }
    told(point, &tally, deaths.len());
    app.finish();
}

fn told(point: &str, tally: &Tally, deaths: usize) {
    let Tally { turns, whole, released, recovered, replayed, most_lost } = tally;
    println!(
        "{point}: {deaths} deaths, {turns} turns, {whole} seen whole, {released} released, \
         {recovered} charged at their marks, {replayed} given again, at most {most_lost} tokens of one call lost"
    );
}

#[test]
fn dying_under_load_after_a_request_has_come_harms_no_other() {
    under_load("request received", &[2, 19, 60]);
}

#[test]
fn dying_under_load_around_a_reserve_harms_no_other() {
    under_load("reserve executed", &[3, 21, 61]);
    under_load("reserve committed", &[2, 20, 59]);
}

#[test]
fn dying_under_load_while_answers_come_harms_no_other() {
    under_load("provider answers", &[4, 23, 60]);
    under_load("delta passed on", &[2, 150, 500]);
}

#[test]
fn dying_under_load_around_a_charge_loses_and_doubles_none() {
    under_load("all received", &[2, 17, 55]);
    under_load("settle executed", &[3, 18, 56]);
    under_load("settle committed", &[2, 19, 57]);
    under_load("final frame handed over", &[3, 20, 58]);
}

#[test]
fn dying_under_load_at_a_checkpoint_costs_the_operator_seconds_and_no_more() {
    const CLIENTS: usize = 8;
    // In the fifth round of checkpoints: more than eight seconds after the streams began.
    let mut app = dying_at("checkpoint written", CLIENTS as u64 * 4 + 3);
    let long = |request: &crate::upstream::Recorded| -> Script {
        let reply: Reply = echo(request, 1_500);
        reply.gap(Duration::from_millis(10)).into()
    };
    app.upstream.choose(long);
    let mut turns: Vec<Turn> =
        (0..CLIENTS).map(|at| Turn::new(&format!("c{at}"), &format!("long-{at} "), true)).collect();
    let events = mpsc::channel().0;
    std::thread::scope(|scope| {
        for turn in &mut turns {
            let (app, events) = (&app, events.clone());
            scope.spawn(move || turn.run(app, &events));
        }
    });
    wait_for_death(&mut app);
    let died = Instant::now();
    let before = Snapshot::dead(&app);
    assert_eq!(before.in_state("open").filter(|hold| hold.mark_output > 0).count(), CLIENTS);
    arm(&mut app, None);
    app.start_again();
    app.upstream.choose(quick(PIECES, Duration::ZERO));
    let mut tally = Tally::default();
    check(&app, &before, &turns, died, &mut tally);
    assert_eq!(tally.recovered, CLIENTS);
    let charged: i64 = before.in_state("open").map(|hold| price(hold.mark_prompt, hold.mark_output)).sum();
    assert!(charged > 0);
    told("checkpoint written", &tally, 1);
    app.finish();
}
