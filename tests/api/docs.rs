//! `/docs`: the page that shows `/openapi.json`, in a browser where there is one.

use std::process::Command;

use crate::app::App;

#[test]
fn the_page_is_whole_in_itself_and_runs_nothing_else() {
    let app = App::start();
    let answer = app.call("GET", "/docs").send().is(200);
    assert_eq!(answer.headers.required("content-type"), "text/html; charset=utf-8");
    assert_eq!(answer.headers.required("x-content-type-options"), "nosniff");
    assert_eq!(answer.headers.required("x-frame-options"), "DENY");
    let policy = answer.headers.required("content-security-policy");
    assert!(policy.starts_with("default-src 'none';"), "{policy}");
    assert!(!policy.contains("unsafe") && !policy.contains("http"), "{policy}");
    for address in ["http://", "https://", "src=\"", "@import", " url("] {
        assert!(!answer.text().contains(address), "{address}");
    }
    app.finish();
}

#[test]
fn a_browser_shows_every_call_under_that_policy() {
    let Some(browser) = ["chromium", "chromium-browser", "google-chrome"]
        .into_iter()
        .find(|name| Command::new(name).arg("--version").output().is_ok_and(|told| told.status.success()))
    else {
        println!("SKIPPED: /docs in a browser: no chromium is installed");
        return;
    };
    let app = App::start();
    let profile = tempfile::tempdir().expect("a directory for the browser");
    let shown = Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        // The browser's own time: it passes as soon as nothing is left to wait for.
        .args(["--virtual-time-budget=20000", "--dump-dom"])
        .arg(format!("http://{}/docs", app.addr))
        .output()
        .expect("the browser runs");
    let page = String::from_utf8_lossy(&shown.stdout);
    assert!(page.contains("data-ready=\"true\""), "the page is not ready: {page}");
    let document = app.call("GET", "/openapi.json").send().ok();
    let paths = document["paths"].as_object().expect("paths");
    let calls = paths.values().flat_map(|calls| calls.as_object().expect("calls").values());
    for call in calls {
        let id = call["operationId"].as_str().expect("a name");
        assert!(page.contains(&format!("<article id=\"{id}\">")), "{id} is not shown");
    }
    assert!(page.contains("Authorization: Bearer sk_…"), "no call has an example");
    app.finish();
}

#[test]
fn security_names_tests_that_are_there() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("docs/security.md")).expect("the page");
    let mut named = 0;
    for quoted in page.lines().filter(|line| line.starts_with('|')).flat_map(|line| line.split('`')) {
        let Some((module, test)) = quoted.rsplit_once("::") else { continue };
        let places = [format!("tests/api/{module}.rs"), format!("src/{}.rs", module.replace("::", "/"))];
        let there = places.iter().any(|place| {
            let source = std::fs::read_to_string(root.join(place)).unwrap_or_default();
            source.contains(&format!("fn {test}()"))
        });
        assert!(there, "there is no test {quoted}");
        named += 1;
    }
    assert!(named >= 15, "{named}");
}
