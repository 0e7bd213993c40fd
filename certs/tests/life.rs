//! What becomes of certificates: renewed, exchanged with their key, revoked, and of another authority; and what a party
//! that runs takes of it.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use eranos_base::{Clock, OsEntropy, SystemClock, Timestamp};
use eranos_certs::{
    Approval, Authority, AuthorityError, Own, Party, PartyError, Role, TrustError,
    cli::issue_beside,
    party::{self, load_anchor},
    trust::{due_for_renewal, validity},
    watch::{OwnWatch, REVOCATIONS_SEEN_FILE, TrustWatch},
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn now() -> Timestamp {
    SystemClock.now()
}

struct Desk {
    folder: tempfile::TempDir,
    authority: Option<Authority>,
}

impl Desk {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let domain = "hospitals.example".parse().expect("a trust domain");
        let authority = Authority::init(&folder.path().join("ca"), domain, now(), &mut OsEntropy).expect("made");
        Self { folder, authority: Some(authority) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn authority(&mut self) -> &mut Authority {
        self.authority.as_mut().expect("open")
    }

    /// As another process finds it.
    fn reopen(&mut self) {
        self.authority = None;
        self.authority = Some(Authority::open(&self.path("ca")).expect("opened"));
    }

    fn approve(&mut self, request: &Path, replace_key: bool) -> Result<PathBuf, AuthorityError> {
        let text = fs::read(request).expect("a request");
        let reviewed = self.authority().review(&text).expect("in order");
        let approval = Approval { replace_key, ..Approval::default() };
        issue_beside(self.authority(), request, &reviewed, approval, now())
    }

    fn enrol(&mut self, name: &str, role: Role, hosts: &[&str]) -> PathBuf {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let folder = self.path(name);
        let requested = party::request(&folder, role, name, &hosts, false, &mut OsEntropy).expect("requested");
        self.approve(&requested.request, false).expect("approved");
        folder
    }

    /// Copies what the authority publishes to a party.
    fn publish(&self, folder: &Path) {
        for name in ["ca.pem", "crl.pem"] {
            fs::copy(self.path("ca").join(name), folder.join(name)).expect("copied");
        }
    }
}

fn watch(folder: &Path) -> TrustWatch {
    TrustWatch::new(folder, folder, load_anchor(folder).expect("usable")).expect("watched")
}

#[test]
fn a_renewed_certificate_names_the_same_party_with_the_same_key() {
    let mut desk = Desk::new();
    for (name, role, hosts) in
        [("silo-1", Role::Client, &[][..]), ("main", Role::Coordinator, &["localhost", "127.0.0.1", "2001:db8::7"][..])]
    {
        let folder = desk.enrol(name, role, hosts);
        let before = Own::load(&folder).expect("complete");
        let mut own = OwnWatch::new(&folder);
        assert!(own.look().expect("usable").is_some(), "the first look gives what is there");
        assert!(own.look().expect("usable").is_none());
        let requested = party::renew(&folder, false, &mut OsEntropy).expect("requested");
        let reviewed = desk.authority().review(&fs::read(&requested.request).expect("there")).expect("in order");
        assert_eq!((reviewed.role, reviewed.name.as_str()), (role, name));
        assert_eq!(reviewed.hosts(), hosts);
        assert_eq!(reviewed.fingerprint, requested.fingerprint);
        desk.approve(&requested.request, false).expect("nobody need insist");
        let after = own.look().expect("usable").expect("renewed");
        assert_ne!(after.certificate, before.certificate);
        assert_eq!(after.key.verifying_key(), before.key.verifying_key());
        assert_eq!(party::uri_of(&after.certificate), party::uri_of(&before.certificate));
    }
}

#[test]
fn a_new_key_is_installed_whole_or_not_at_all() {
    let mut desk = Desk::new();
    let folder = desk.enrol("silo-1", Role::Client, &[]);
    let other = desk.enrol("silo-2", Role::Client, &[]);
    let before = Own::load(&folder).expect("complete");
    assert!(matches!(party::install(&folder), Err(PartyError::NothingToInstall { .. })));
    let requested = party::renew(&folder, true, &mut OsEntropy).expect("requested");
    let again = party::renew(&folder, true, &mut OsEntropy).expect("requested");
    assert_eq!(requested, again, "asked for again, it is the same key");
    assert!(matches!(desk.approve(&requested.request, false), Err(AuthorityError::OtherKey { .. })));
    // Another's certificate is not installed, whatever its name.
    fs::copy(other.join("certificate.pem"), folder.join("next-certificate.pem")).expect("copied");
    assert!(matches!(party::install(&folder), Err(PartyError::KeyMismatch { .. })));
    let path = desk.approve(&requested.request, true).expect("the operator insists");
    assert_eq!(path, folder.join("next-certificate.pem"));
    assert_eq!(Own::load(&folder).expect("as before").certificate, before.certificate);
    // The old certificate is revoked from now on, which a coordinator finds in the list alone.
    let anchor = load_anchor(&folder).expect("usable");
    assert_eq!(anchor.verify_client(&before.certificate, now()), Err(TrustError::Revoked));
    // Cut off between its two steps, it is finished the next time; meanwhile nobody takes the halves for a whole.
    let mut own = OwnWatch::new(&folder);
    own.look().expect("usable");
    fs::rename(folder.join("next-key.pem"), folder.join("key.pem")).expect("renamed");
    assert!(matches!(own.look(), Err(PartyError::KeyMismatch { .. })));
    party::install(&folder).expect("finished");
    let after = own.look().expect("usable").expect("another");
    assert_ne!(after.key.verifying_key(), before.key.verifying_key());
    assert!(anchor.verify_client(&after.certificate, now()).is_ok());
    assert_eq!(party::uri_of(&after.certificate), party::uri_of(&before.certificate));
    assert!(!folder.join("next-key.pem").exists() && !folder.join("next-certificate.pem").exists());
}

#[test]
fn whoever_must_renew_hears_a_month_before_or_in_the_last_third() {
    let mut desk = Desk::new();
    let folder = desk.enrol("silo-1", Role::Client, &[]);
    let certificate = Own::load(&folder).expect("complete").certificate;
    let (_, not_after) = validity(&certificate).expect("a certificate");
    let before = |left: Duration| Timestamp::from_unix_ms(not_after.unix_ms() - left.as_millis() as u64);
    assert_eq!(due_for_renewal(&certificate, before(31 * DAY)), Ok(None));
    assert_eq!(due_for_renewal(&certificate, before(29 * DAY)), Ok(Some(29 * DAY)));
    assert_eq!(due_for_renewal(&certificate, not_after + DAY), Ok(Some(Duration::ZERO)));
}

#[test]
fn a_running_party_takes_newer_lists_alone() {
    let mut desk = Desk::new();
    let folder = desk.enrol("silo-1", Role::Client, &[]);
    let certificate = Own::load(&folder).expect("complete").certificate;
    let standing = load_anchor(&folder).expect("usable").verify_client(&certificate, now()).expect("good").standing;
    let mut running = watch(&folder);
    assert!(running.look().expect("usable").is_none(), "nothing changed");
    let old_list = fs::read(folder.join("crl.pem")).expect("a list");
    desk.authority().revoke("silo-1", now()).expect("revoked");
    desk.publish(&folder);
    let anchor = running.look().expect("usable").expect("another list");
    assert_eq!(anchor.still_believes(&standing, now()), Err(TrustError::Revoked));
    assert!(running.look().expect("usable").is_none());

    // The list before is no list any more, now or after a restart.
    fs::write(folder.join("crl.pem"), &old_list).expect("written");
    let error = running.look().expect_err("older");
    assert!(matches!(error, PartyError::ListGoesBack { found: 0, seen: 1, .. }), "{error}");
    assert!(running.look().expect("said once").is_none());
    assert_eq!(running.anchor().still_believes(&standing, now()), Err(TrustError::Revoked));
    let error = TrustWatch::new(&folder, &folder, load_anchor(&folder).expect("signed")).expect_err("older");
    assert!(matches!(error, PartyError::ListGoesBack { found: 0, seen: 1, .. }), "{error}");

    // Neither is one that is damaged, gone, or another authority's; each leaves in force what was.
    let other = Desk::new();
    let breaks: [&dyn Fn(); 4] = [
        &|| fs::write(folder.join("crl.pem"), "-----BEGIN X509 CRL-----\n").expect("written"),
        &|| fs::remove_file(folder.join("crl.pem")).expect("there"),
        &|| fs::copy(other.path("ca/crl.pem"), folder.join("crl.pem")).map(|_| ()).expect("copied"),
        &|| fs::write(folder.join("ca.pem"), "").expect("written"),
    ];
    for break_it in breaks {
        break_it();
        running.look().expect_err("unusable");
        assert_eq!(running.anchor().still_believes(&standing, now()), Err(TrustError::Revoked));
    }
    // Another authority of the same trust domain takes its operator's word; of another domain, none.
    let domain = "elsewhere.example".parse().expect("a trust domain");
    let elsewhere = Authority::init(&desk.path("elsewhere"), domain, now(), &mut OsEntropy).expect("made");
    fs::copy(elsewhere.certificate_file(), folder.join("ca.pem")).expect("copied");
    fs::copy(elsewhere.revocation_list_file(), folder.join("crl.pem")).expect("copied");
    assert!(matches!(running.look(), Err(PartyError::OtherDomain { .. })));
    desk.publish(&folder);
    assert!(running.look().expect("as before").is_none());
    let seen = fs::read_to_string(folder.join(REVOCATIONS_SEEN_FILE)).expect("remembered");
    assert!(seen.ends_with(" 1\n") && seen.lines().count() == 1, "{seen}");
}

#[test]
fn a_list_past_its_date_makes_nobody_believed() {
    let mut desk = Desk::new();
    let folder = desk.enrol("silo-1", Role::Client, &[]);
    let certificate = Own::load(&folder).expect("complete").certificate;
    desk.authority().renew_list(Some(7), now()).expect("written");
    desk.publish(&folder);
    let anchor = load_anchor(&folder).expect("usable");
    let identity = anchor.verify_client(&certificate, now() + 6 * DAY).expect("in time");
    assert_eq!(anchor.still_believes(&identity.standing, now() + 6 * DAY), Ok(()));
    assert_eq!(anchor.verify_client(&certificate, now() + 8 * DAY), Err(TrustError::ListExpired));
    assert_eq!(anchor.still_believes(&identity.standing, now() + 8 * DAY), Err(TrustError::ListExpired));
    // Said once, it holds for the lists that follow, and in another process.
    desk.reopen();
    desk.authority().revoke("silo-1", now()).expect("revoked");
    assert_eq!(desk.authority().list_days(), Some(7));
    desk.publish(&folder);
    let lists: Vec<_> = load_anchor(&folder).expect("usable").lists().collect();
    assert!(lists[0].next_update.expect("a date") < now() + 8 * DAY, "{lists:?}");
    assert!(desk.authority().renew_list(Some(0), now()).is_err());
    desk.authority().renew_list(None, now()).expect("written");
    desk.publish(&folder);
    assert_eq!(
        load_anchor(&folder).expect("usable").verify_client(&certificate, now() + 8 * DAY),
        Err(TrustError::Revoked)
    );
}

#[test]
fn an_authority_is_exchanged_while_both_are_believed() {
    let mut desk = Desk::new();
    let [first, late] = ["silo-1", "silo-2"].map(|name| desk.enrol(name, Role::Client, &[]));
    let mut running = watch(&first);
    let of_old = Own::load(&first).expect("complete").certificate;
    let before = load_anchor(&first).expect("usable");
    assert!(matches!(desk.authority().finish_roll_over(false, now()), Err(AuthorityError::NotRollingOver)));
    desk.authority().roll_over(now(), &mut OsEntropy).expect("begun");
    desk.reopen();
    assert!(matches!(desk.authority().roll_over(now(), &mut OsEntropy), Err(AuthorityError::RollingOver)));

    // A file at a time: half of it changes nothing.
    fs::copy(desk.path("ca/ca.pem"), first.join("ca.pem")).expect("copied");
    running.look().expect_err("two authorities and one list");
    desk.publish(&first);
    let both = running.look().expect("usable").expect("two authorities");
    let standing = both.verify_client(&of_old, now()).expect("still believed").standing;
    assert_eq!(both.authorities().count(), 2);
    let requested = party::renew(&first, false, &mut OsEntropy).expect("requested");
    desk.approve(&requested.request, false).expect("the same key as ever");
    let of_new = Own::load(&first).expect("complete").certificate;
    let renewed = both.verify_client(&of_new, now()).expect("believed too");
    assert_ne!(renewed.standing.authority, standing.authority);
    assert_eq!(before.verify_client(&of_new, now()), Err(TrustError::ForeignAuthority), "who has not heard of it");

    // Each list names what its own authority certified; a revocation reaches both.
    desk.authority().revoke("silo-1", now()).expect("revoked");
    desk.publish(&first);
    let both = running.look().expect("usable").expect("other lists");
    for certificate in [&of_old, &of_new] {
        assert_eq!(both.verify_client(certificate, now()), Err(TrustError::Revoked));
    }

    // It does not end before everybody has changed over, unless the operator shuts them out.
    let error = desk.authority().finish_roll_over(false, now()).expect_err("one is left").to_string();
    assert!(error.contains("1 still have") && error.contains("client/silo-2"), "{error}");
    let requested = party::renew(&late, false, &mut OsEntropy).expect("requested");
    desk.approve(&requested.request, false).expect("approved");
    desk.authority().finish_roll_over(false, now()).expect("ended");
    desk.reopen();
    assert!(!desk.path("ca/ca.previous.key").exists());
    desk.publish(&first);
    let alone = running.look().expect("usable").expect("one authority");
    assert_eq!(alone.authorities().count(), 1);
    assert_eq!(alone.verify_client(&of_old, now()), Err(TrustError::ForeignAuthority));
    assert_eq!(alone.still_believes(&standing, now()), Err(TrustError::ForeignAuthority));
    assert!(alone.verify_client(&Own::load(&late).expect("complete").certificate, now()).is_ok());
    let states: Vec<&str> = {
        let authority = desk.authority();
        authority.enrolments().iter().map(|enrolment| authority.state_of(enrolment, now())).collect()
    };
    assert_eq!(states, ["revoked", "retired", "revoked", "enrolled"]);
    // Who was revoked under the old one is not forgiven by the new one.
    assert!(matches!(desk.approve(&first.join("request.pem"), false), Err(AuthorityError::KeyRevoked { .. })));
}

#[test]
fn an_exchange_that_was_cut_off_is_finished() {
    // After each of its durable steps: the fresh key alone, the lists, the certificates, the first of two renames.
    for step in 0..4 {
        let mut desk = Desk::new();
        let folder = desk.enrol("silo-1", Role::Client, &[]);
        let old: Vec<(&str, Vec<u8>)> = ["ca.pem", "crl.pem", "ca.key"]
            .map(|name| (name, fs::read(desk.path("ca").join(name)).expect("there")))
            .into();
        desk.authority().roll_over(now(), &mut OsEntropy).expect("begun");
        desk.authority = None;
        let ca = |name: &str| desk.path("ca").join(name);
        fs::rename(ca("ca.key"), ca("ca.next.key")).expect("renamed");
        if step < 3 {
            fs::remove_file(ca("ca.previous.key")).expect("there");
            fs::write(ca("ca.key"), &old[2].1).expect("written");
        }
        let undone: &[usize] = match step {
            0 => &[0, 1],
            1 => &[0],
            _ => &[],
        };
        for place in undone {
            fs::write(ca(old[*place].0), &old[*place].1).expect("written");
        }
        desk.reopen();
        let begun = desk.authority().roll_over(now(), &mut OsEntropy);
        assert_eq!(begun.is_ok(), step < 2, "step {step}: {begun:?}");
        desk.reopen();
        desk.publish(&folder);
        let both = load_anchor(&folder).unwrap_or_else(|error| panic!("step {step}: {error}"));
        assert_eq!(both.authorities().count(), 2, "step {step}");
        assert!(both.verify_client(&Party::load(&folder).expect("complete").certificate, now()).is_ok(), "step {step}");
    }
}
