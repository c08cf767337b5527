//! Flags, environment and configuration file.

use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::app::binary;

fn dir() -> TempDir {
    tempfile::tempdir().expect("a directory for the test")
}

/// Runs a command that has to end by itself.
fn run(dir: &Path, change: impl FnOnce(&mut Command) -> &mut Command) -> Output {
    let mut command = binary();
    change(command.current_dir(dir)).output().expect("the binary can be run")
}

fn told(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn all_faults_of_the_configuration_are_told_at_once() {
    let dir = dir();
    let output = run(dir.path(), |command| {
        command
            .args(["serve", "--check", "--listen", "nowhere", "--provider-url", "not a url"])
            .args(["--default-limits", "some"])
    });
    let told = told(&output);
    assert!(!output.status.success(), "it is taken: {told}");
    for fault in ["listen", "provider-url", "default-limits"] {
        let known = told.contains(fault) || told.contains(&fault.replace('-', "_"));
        assert!(known, "{fault} is not named in: {told}");
    }
    app_made_nothing(dir.path());
}

#[test]
fn a_check_of_a_good_configuration_ends_well_and_starts_nothing() {
    let dir = dir();
    let output = run(dir.path(), |command| {
        command
            .args(["serve", "--check", "--listen", "127.0.0.1:0", "--provider-url", "http://127.0.0.1:9/v1"])
            .args(["--provider-key", "secret-of-the-operator", "--provider-model", "m"])
    });
    let told = told(&output);
    assert!(output.status.success(), "it is refused: {told}");
    assert!(!told.contains("secret-of-the-operator"));
    app_made_nothing(dir.path());
}

#[test]
fn secrets_are_masked_where_the_configuration_is_shown() {
    let dir = dir();
    let output = run(dir.path(), |command| {
        command.arg("config").env("OPENAI_API_KEY", "sk-secret-of-the-operator-123456")
    });
    let told = told(&output);
    assert!(output.status.success(), "it fails: {told}");
    assert!(told.contains("127.0.0.1:8080"), "the address is not shown: {told}");
    assert!(!told.contains("secret-of-the-operator"), "the secret is shown: {told}");
}

#[test]
fn an_unknown_flag_or_word_in_the_file_is_a_fault() {
    let dir = dir();
    assert!(
        !run(dir.path(), |command| command.args(["serve", "--check", "--no-such-flag"])).status.success()
    );
    std::fs::write(dir.path().join("switchboard.toml"), "no_such_word = 1\n").expect("a file");
    let output = run(dir.path(), |command| command.args(["serve", "--check"]));
    assert!(!output.status.success(), "it is taken: {}", told(&output));
    assert!(told(&output).contains("no_such_word"), "it is not named: {}", told(&output));
}

#[test]
fn every_fault_of_a_provider_is_named_by_its_place() {
    let dir = dir();
    let file = "balance = \"fair\"\nprovider_retries = 3\n\
        [[providers]]\nname = \"own\"\nbase_url = \"http://127.0.0.1:9/v1\"\nmodels = [\"a\", \"a\"]\n\
        max_concurrency = 0\nweight = 5000\nretries = 9\non_disconnect = \"wait\"\n\
        headers = { Authorization = \"Bearer x\", \"not a name\" = \"x\" }\n\
        prices = { a = { input = \"-1\", output = \"many\" }, b = { input = \"1\" }, c = { other = \"1\" } }\n\
        breaker = { failure_percent = 101, no_such_word = 1 }\n";
    std::fs::write(dir.path().join("switchboard.toml"), file).expect("a file");
    let output = run(dir.path(), |command| command.args(["serve", "--check"]));
    let told = told(&output);
    assert!(!output.status.success(), "it is taken: {told}");
    for fault in [
        "balance: expected weighted or least_busy",
        "provider_retries: expected 0 to 2",
        "that is not `own`",
        "providers[0].models[1]: `a` is listed twice",
        "providers[0].max_concurrency: expected 1 to",
        "providers[0].weight: expected 1 to 1000",
        "providers[0].retries: expected 0 to 2",
        "providers[0].on_disconnect: expected cancel or drain",
        "providers[0].headers.Authorization: this header is set by the server",
        "providers[0].headers.not a name: expected",
        "providers[0].prices.a.input: expected nothing or more",
        "providers[0].prices.a.output: expected a decimal",
        "providers[0].prices.b.output: is required",
        "providers[0].prices.c.other: is not known",
        "providers[0].breaker.failure_percent: expected 1 to 100",
        "providers[0].breaker.no_such_word: is not known",
    ] {
        assert!(told.contains(fault), "`{fault}` is not told: {told}");
    }
}

#[test]
fn a_secrets_key_that_is_none_is_a_fault_that_does_not_tell_it() {
    let dir = dir();
    for (newest, old, fault) in [
        ("not-32-bytes-secret", "", "secrets_key: expected 32 bytes"),
        ("", "not-32-bytes-secret", "secrets_keys_old: needs secrets_key"),
        (
            "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=",
            "not-32-bytes-secret",
            "secrets_keys_old[0]: expected 32 bytes",
        ),
    ] {
        let output = run(dir.path(), |command| {
            command
                .args(["serve", "--check"])
                .env("SWITCHBOARD_SECRETS_KEY", newest)
                .env("SWITCHBOARD_SECRETS_KEYS_OLD", old)
        });
        let told = told(&output);
        assert!(!output.status.success() && told.contains(fault), "{fault}: {told}");
        assert!(!told.contains("not-32-bytes-secret"), "the key is shown: {told}");
    }
    std::fs::write(
        dir.path().join("switchboard.toml"),
        "secrets_key = \"AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=\"\n",
    )
    .expect("a file");
    let shown = told(&run(dir.path(), |command| command.arg("config")));
    assert!(shown.contains("secrets_key = \"***\"") && !shown.contains("AQEB"), "{shown}");
}

#[test]
fn a_provider_is_shown_as_it_was_configured_with_its_secrets_masked() {
    let dir = dir();
    let file = "[[providers]]\nname = \"a\"\nbase_url = \"http://127.0.0.1:9/v1\"\nmodels = [\"m\", \"n\"]\n\
        max_concurrency = 7\nheaders = { api-key = \"hidden-operator-secret\" }\n\
        prices = { m = { input = \"0.5\", output = \"1\" } }\nbreaker = { probes = 3 }\n";
    std::fs::write(dir.path().join("switchboard.toml"), file).expect("a file");
    let shown = told(&run(dir.path(), |command| command.arg("config")));
    assert!(!shown.contains("hidden-operator-secret"), "{shown}");
    // What is shown can be used as a file again, but for the secrets.
    std::fs::write(dir.path().join("switchboard.toml"), &shown).expect("a file");
    let again = told(&run(dir.path(), |command| command.arg("config")));
    assert_eq!(shown, again);
    for part in
        ["model = \"m\"", "max_concurrency = 7", "api-key = \"***\"", "input = \"0.500000000\"", "probes = 3"]
    {
        assert!(shown.contains(part), "{part} is not in: {shown}");
    }
}

#[test]
fn help_names_what_a_newcomer_needs() {
    let dir = dir();
    let output = run(dir.path(), |command| command.args(["serve", "--help"]));
    let told = told(&output);
    assert!(output.status.success());
    for flag in [
        "--listen",
        "--data",
        "--provider-url",
        "--provider-key",
        "--provider-model",
        "--cors-origin",
        "--check",
    ] {
        assert!(told.contains(flag), "{flag} is not in the help");
    }
    let output = run(dir.path(), |command| command.arg("--version"));
    assert!(output.status.success());
}

fn app_made_nothing(dir: &Path) {
    assert!(!dir.join("data").exists(), "a check made the data directory");
}
