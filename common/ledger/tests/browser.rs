//! The report in a real browser: chromium, where there is one; else these tests say loudly that they tested nothing.
//! What it drew stays in `target/tmp/report` for whoever wants to look.
//!
//! The browser is told to resolve no name. What it asks its own vendor for is not the page's doing and is left out; that
//! a page's request would be seen is shown by a page that makes one.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use crate::{
    report::HOSTILE,
    support::{Federation, mechanism},
};

/// Whom the browser calls by itself.
const VENDOR: [&str; 3] = ["google.com", "googleapis.com", "gvt1.com"];

struct Browser {
    program: &'static str,
    profile: tempfile::TempDir,
}

impl Browser {
    fn find() -> Option<Self> {
        let runs =
            |program: &&str| Command::new(program).arg("--version").output().is_ok_and(|out| out.status.success());
        let Some(program) = ["chromium", "chromium-browser", "google-chrome"].into_iter().find(runs) else {
            eprintln!(
                "NOT TESTED: there is no chromium here, so no browser has seen the report (apt-get install chromium)"
            );
            return None;
        };
        Some(Self { program, profile: tempfile::tempdir().expect("a folder") })
    }

    /// Opens `page` and does what `arguments` say.
    fn open(&self, page: &Path, arguments: &[String]) -> Output {
        let output = Command::new(self.program)
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars"])
            .args(["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-pings"])
            .args(["--enable-logging=stderr", "--virtual-time-budget=3000", "--host-resolver-rules=MAP * ~NOTFOUND"])
            .arg(format!("--user-data-dir={}", self.profile.path().display()))
            .args(arguments)
            .arg(format!("file://{}", page.display()))
            .output()
            .expect("the browser runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output
    }

    /// What became of the page, what the console said, and which hosts were asked for.
    fn read(&self, page: &Path) -> (String, Vec<String>, Vec<String>) {
        let log = self.profile.path().join("net.json");
        let output = self.open(page, &["--dump-dom".to_owned(), format!("--log-net-log={}", log.display())]);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let console = text(&output.stderr).lines().filter(|line| line.contains("CONSOLE")).map(str::to_owned).collect();
        let log = fs::read_to_string(log).expect("a log of the network");
        assert!(log.contains("\"constants\""), "this is no log of the network");
        let urls = log.split("\"url\":\"").skip(1).filter_map(|rest| rest.split('"').next());
        let hosts = urls.filter_map(|url| url.split_once("://")?.1.split(['/', ':', '?']).next());
        let asked = hosts.filter(|host| !host.is_empty() && !VENDOR.iter().any(|vendor| host.ends_with(vendor)));
        (text(&output.stdout), console, asked.map(str::to_owned).collect())
    }
}

/// Where the drawings stay.
fn folder() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("report");
    fs::create_dir_all(&folder).expect("a folder");
    folder
}

/// Writes the report of `federation` as `name`.
fn page(federation: &Federation, name: &str) -> PathBuf {
    let dir = tempfile::tempdir().expect("a folder");
    federation.write(dir.path());
    let path = folder().join(name);
    let status = Command::new(env!("CARGO_BIN_EXE_eranos-audit"))
        .arg("report")
        .arg(dir.path())
        .args(["--key", &federation.signer.ledger_key().to_string()])
        .arg("--html")
        .arg(&path)
        .output()
        .expect("runs")
        .status;
    assert!(status.success());
    path
}

fn with_every_outcome(origin: &str) -> Federation {
    let mut federation = Federation::with_origin(origin, mechanism());
    for round in 0..12 {
        match round % 6 {
            3 => federation.attempt("aborted-before-reveal", &[0, 1]),
            4 => federation.attempt("released", &[0, 2, 3]),
            _ => federation.attempt("released", &[0, 1, 2, 3]),
        }
    }
    federation
}

#[test]
fn a_browser_shows_the_page_without_a_word_and_without_a_network() {
    let Some(browser) = Browser::find() else { return };
    for (origin, name) in [("ledger.example.org", "report.html"), (HOSTILE, "hostile.html")] {
        let path = page(&with_every_outcome(origin), name);
        let (dom, console, asked) = browser.read(&path);
        assert_eq!((console, asked), (Vec::new(), Vec::new()), "{name}");
        assert_eq!(dom.matches("<svg class=\"chart\"").count(), 2, "{name}");
        assert!(
            dom.contains("Whether any one record of any one party") && dom.trim_end().ends_with("</html>"),
            "{name}"
        );
        // The browser made no element of what the name says.
        assert!(!dom.contains("<script") && !dom.contains("<img"), "{name}");
    }
}

#[test]
fn a_page_that_asks_or_runs_is_stopped_and_would_have_been_seen() {
    let Some(browser) = Browser::find() else { return };
    let intact = fs::read_to_string(page(&Federation::with_history(), "intact.html")).expect("written");
    let added = "<img src=\"http://page.invalid/x.png\"><script>console.log('it ran')</script></body>";
    let asking = intact.replace("</body>", added);
    let path = folder().join("asking.html");
    fs::write(&path, &asking).expect("written");
    let (_, console, asked) = browser.read(&path);
    assert!(asked.is_empty(), "{asked:?}");
    assert!(console.len() >= 2 && console.iter().all(|line| line.contains("Content Security Policy")), "{console:?}");
    // The same without the policy: what it asks for and says is seen.
    let start = asking.find("<meta http-equiv").expect("a policy");
    let end = start + asking[start..].find('>').expect("its end") + 1;
    fs::write(&path, format!("{}{}", &asking[..start], &asking[end..])).expect("written");
    let (_, console, asked) = browser.read(&path);
    assert!(asked.iter().any(|host| host == "page.invalid"), "{asked:?}");
    assert!(console.iter().any(|line| line.contains("it ran")), "{console:?}");
}

#[test]
fn a_browser_draws_it_light_dark_narrow_and_on_paper() {
    let Some(browser) = Browser::find() else { return };
    let path = page(&with_every_outcome("ledger.example.org"), "drawn.html");
    let folder = folder();
    // A window is never as narrow as a telephone; a frame is.
    let frame = folder.join("narrow.html");
    let narrow = "<!doctype html><body><iframe src=\"drawn.html\" width=\"360\" height=\"3900\"></iframe>";
    fs::write(&frame, narrow).expect("written");
    let draw = |page: &Path, name: &str, size: &str, more: &[&str]| {
        let file = folder.join(name);
        let _ = fs::remove_file(&file);
        let mut arguments = vec![format!("--screenshot={}", file.display()), format!("--window-size={size}")];
        arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
        browser.open(page, &arguments);
        let bytes = fs::read(&file).expect("a screenshot");
        assert!(bytes.starts_with(b"\x89PNG") && bytes.len() > 40_000, "{name}: {} bytes", bytes.len());
        bytes
    };
    let light = draw(&path, "light.png", "1000,4600", &[]);
    let dark = draw(&path, "dark.png", "1000,4600", &["--blink-settings=preferredColorScheme=0"]);
    assert_ne!(light, dark, "a dark scheme changes nothing");
    draw(&frame, "narrow.png", "420,4000", &[]);
    let pdf = folder.join("printed.pdf");
    let _ = fs::remove_file(&pdf);
    browser.open(&path, &["--no-pdf-header-footer".to_owned(), format!("--print-to-pdf={}", pdf.display())]);
    let bytes = fs::read(&pdf).expect("printed");
    assert!(bytes.starts_with(b"%PDF") && bytes.len() > 20_000, "{} bytes", bytes.len());
}
