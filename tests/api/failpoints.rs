//! A server that is made to die at a named point; only debug builds can be.

use crate::app::{App, Setup};

/// A server that dies when it comes to `point` for the `times`-th time.
pub fn dying_at(point: &str, times: u64) -> App {
    Setup::default().environment(VARIABLE, &format!("{point}:{times}")).start()
}

/// Where the server dies after the next start; `None` for nowhere.
pub fn arm(app: &mut App, point: Option<(&str, u64)>) {
    let value = point.map(|(name, times)| format!("{name}:{times}"));
    app.set_environment(&value.iter().map(|value| (VARIABLE, value.as_str())).collect::<Vec<_>>());
}

/// Waits until the server has died at its point, and not of anything else.
pub fn wait_for_death(app: &mut App) {
    use std::os::unix::process::ExitStatusExt;
    let deaths = app.log().matches("failpoint: ").count();
    let status = app.wait_for_exit();
    let log = app.log();
    assert_eq!(status.signal(), Some(6), "the server ended otherwise:\n{log}");
    assert!(log.matches("failpoint: ").count() >= deaths.max(1), "it died of something else:\n{log}");
}

const VARIABLE: &str = "SWITCHBOARD_FAILPOINT";
