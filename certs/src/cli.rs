//! `eranos certs ..` and `eranos-certs ..`: the same commands.

use std::{
    collections::HashSet,
    ffi::OsStr,
    io::{self, BufRead, IsTerminal, Write},
    path::{Path, PathBuf},
};

use clap::Subcommand;
use serde_json::json;

use eranos_base::{Clock, Digest, OsEntropy, SystemClock, Timestamp, TrustDomain, UserError};

use crate::{
    authority::{AUTHORITY_KEY_FILE, Approval, Authority, AuthorityError, CERTIFICATE_DAYS, Request},
    files::{FileError, pem, read_limited, write_atomic},
    party::{
        self, AUTHORITY_FILE, CERTIFICATE_FILE, Own, PEM_LEN_MAX, Party, PartyError, REVOCATION_LIST_FILE, Requested,
        Role,
    },
    trust::{TrustError, day, validity},
};

/// What `--help` says above the list of commands.
pub const LONG_ABOUT: &str = "\
Keep a federation's certificate authority: who may take part, and under which key.

Each party makes its own key and sends a request; the authority's operator compares
fingerprints and approves. On one machine, for a trial:

  eranos certs init --trust-domain hospitals.example
  eranos certs request --name main --coordinator --host localhost --dir parties/main
  eranos certs request --name silo-1 --dir parties/silo-1
  eranos certs approve parties/*/request.pem

In earnest the authority lives on a machine of its own (not the coordinator's), each
party runs `request` where it trains and sends only request.pem, and reads its
fingerprint out over the telephone.

Before a certificate expires its party runs `renew`, and the operator approves as
before: clients and coordinators that run take the new certificate.pem, and whatever
crl.pem and ca.pem are copied beside it, without a restart.";

/// Keep a certificate authority, or ask one for a certificate.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a certificate authority
    ///
    /// It is a folder with a key that signs certificates (ca.key: keep it secret, keep a copy), the certificate that
    /// every party needs (ca.pem) and the list of revoked certificates (crl.pem).
    Init {
        /// The authority's folder
        #[arg(long, default_value = "ca")]
        dir: PathBuf,
        /// The name that begins every identity, such as hospitals.example; it cannot be changed later
        #[arg(long, value_name = "NAME")]
        trust_domain: TrustDomain,
    },
    /// Make a key here and a request for a certificate
    ///
    /// The key (key.pem) never leaves the folder. Send request.pem to the authority's operator, and read the
    /// fingerprint out to them over another channel: it is how they know that the request is yours.
    Request {
        /// The party's name: a-z, 0-9, '-', '_' and '.'
        #[arg(long)]
        name: String,
        /// The party's folder [default: the name]
        #[arg(long)]
        dir: Option<PathBuf>,
        /// Ask for a coordinator's certificate, not a client's
        #[arg(long, requires = "host")]
        coordinator: bool,
        /// A DNS name or address under which clients will dial the coordinator; may be repeated
        #[arg(long, requires = "coordinator", value_name = "NAME OR ADDRESS")]
        host: Vec<String>,
    },
    /// Ask for a new certificate before the present one expires
    ///
    /// Writes a request for the same identity and key; have it approved, and put certificate.pem in the place of the old
    /// one: whoever runs takes it by itself. Budget and pseudonym stay as they are. With --new-key a key is made that is
    /// used once `install` has put it in the place of the old one, with its certificate.
    Renew {
        /// The party's folder
        #[arg(long, default_value = ".")]
        dir: PathBuf,
        /// Make a new key too (next-key.pem, next-request.pem); the operator approves it with --replace-key
        #[arg(long)]
        new_key: bool,
    },
    /// Put a new key and its certificate in the place of the old ones
    ///
    /// next-key.pem and next-certificate.pem become key.pem and certificate.pem. Do so before crl.pem, in which the old
    /// certificate is revoked by then, is copied to the coordinator.
    Install {
        /// The party's folder
        #[arg(long, default_value = ".")]
        dir: PathBuf,
    },
    /// What a party's certificate says, until when it is valid, and how old its revocation list is
    Show {
        /// The party's folder
        #[arg(long, default_value = ".")]
        dir: PathBuf,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Approve requests: compare fingerprints, then issue certificates
    ///
    /// Shows who each request is from and the fingerprint of its key, and asks before anything is issued. Each
    /// certificate is written beside its request (request.pem becomes certificate.pem), together with ca.pem and
    /// crl.pem: send these three back. If one request is refused, none is approved.
    Approve {
        /// Request files
        #[arg(required = true, value_name = "REQUEST")]
        requests: Vec<PathBuf>,
        /// The authority's folder
        #[arg(long, default_value = "ca")]
        ca: PathBuf,
        /// How many days the certificates are valid
        #[arg(long, default_value_t = CERTIFICATE_DAYS)]
        days: u32,
        /// Do not ask: you have compared the fingerprints, or made the requests yourself
        #[arg(long)]
        yes: bool,
        /// Do not ask, but approve only keys with this fingerprint; once for each request
        #[arg(long, value_name = "SHA256", conflicts_with = "yes")]
        fingerprint: Vec<Digest>,
        /// Accept a new key for an identity that has one; its old certificates are revoked
        #[arg(long)]
        replace_key: bool,
    },
    /// Revoke every certificate of a party
    ///
    /// Writes the authority's crl.pem. Copy it to the coordinator, which cuts the party off within seconds, without a
    /// restart, and to the clients.
    Revoke {
        /// The party's name or whole identity
        #[arg(required = true)]
        name: Vec<String>,
        /// The authority's folder
        #[arg(long, default_value = "ca")]
        ca: PathBuf,
    },
    /// Write a fresh revocation list
    ///
    /// A list is believed as long as the authority, unless --days says less: whoever has none, or one past its date, then
    /// lets nobody in, and the list must be renewed and copied in time. What is said here holds for later lists too.
    Crl {
        /// The authority's folder
        #[arg(long, default_value = "ca")]
        ca: PathBuf,
        /// For how many days each list is believed
        #[arg(long)]
        days: Option<u32>,
    },
    /// Exchange the authority's key for a fresh one, while both are believed
    ///
    /// First without --finish: ca.pem and crl.pem hold two from then on; copy both files to every party. Then each party
    /// runs `renew` and is approved, which the fresh key signs. Last with --finish: ca.pem and crl.pem hold the fresh one
    /// alone; copy them once more. Nobody that runs is restarted for any of it.
    Rollover {
        /// The authority's folder
        #[arg(long, default_value = "ca")]
        ca: PathBuf,
        /// Believe the fresh key alone, now that everybody has a certificate of it
        #[arg(long)]
        finish: bool,
        /// Finish although some have no certificate of the fresh key: they are shut out
        #[arg(long, requires = "finish")]
        shut_out: bool,
    },
    /// List who is enrolled, until when, and who was revoked
    List {
        /// The authority's folder
        #[arg(long, default_value = "ca")]
        ca: PathBuf,
        /// Print one JSON array
        #[arg(long)]
        json: bool,
    },
}

/// Runs a command: results on standard output, questions on standard error.
///
/// # Errors
/// With what to do next, if anything fails or is refused.
pub fn run(command: Command) -> Result<(), UserError> {
    let mut out = io::stdout().lock();
    let result = match command {
        Command::Init { dir, trust_domain } => init(&dir, trust_domain, &mut out),
        Command::Request { name, dir, coordinator, host } => {
            let folder = dir.unwrap_or_else(|| PathBuf::from(&name));
            let role = if coordinator { Role::Coordinator } else { Role::Client };
            party::request(&folder, role, &name, &host, false, &mut OsEntropy)
                .map_err(Stop::from)
                .and_then(|requested| say_requested(&format!("{} {name}", role.as_str()), &requested, &mut out))
        }
        Command::Renew { dir, new_key } => renew(&dir, new_key, &mut out),
        Command::Install { dir } => install(&dir, &mut out),
        Command::Show { dir, json } => show(&dir, json, &mut out),
        Command::Approve { requests, ca, days, yes, fingerprint, replace_key } => {
            let consent = match (yes, fingerprint.is_empty()) {
                (true, _) => Consent::Given,
                (false, false) => Consent::To(fingerprint.into_iter().collect()),
                (false, true) => Consent::Ask,
            };
            approve(&requests, &ca, Approval { days, replace_key }, &consent, &mut out)
        }
        Command::Revoke { name, ca } => revoke(&name, &ca, &mut out),
        Command::Crl { ca, days } => renew_list(&ca, days, &mut out),
        Command::Rollover { ca, finish, shut_out } => roll_over(&ca, finish, shut_out, &mut out),
        Command::List { ca, json } => list(&ca, json, &mut out),
    };
    match result {
        Ok(()) => Ok(()),
        // Whoever reads only the first lines (`| head`) has what they wanted.
        Err(Stop::Printing(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(Stop::Printing(error)) => Err(UserError::new(format!("cannot print: {error}"), "check standard output")),
        Err(Stop::Refused(error)) => Err(error),
    }
}

/// Why a command ended early.
enum Stop {
    Printing(io::Error),
    Refused(UserError),
}

impl<E: Into<UserError>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Refused(error.into())
    }
}

/// How an operator agrees to a request.
enum Consent {
    Given,
    To(HashSet<Digest>),
    Ask,
}

fn init(folder: &Path, trust_domain: TrustDomain, out: &mut dyn Write) -> Result<(), Stop> {
    let authority = Authority::init(folder, trust_domain, SystemClock.now(), &mut OsEntropy)?;
    print(writeln!(
        out,
        "authority of {} in {}\n  {}  every party needs it\n  {}  signs certificates: keep it secret, keep a copy",
        authority.trust_domain(),
        folder.display(),
        authority.certificate_file().display(),
        folder.join(AUTHORITY_KEY_FILE).display(),
    ))
}

fn say_requested(who: &str, requested: &Requested, out: &mut dyn Write) -> Result<(), Stop> {
    print(writeln!(
        out,
        "{who}\n  {}  send it to the authority's operator\n  {}  stays here\n  fingerprint {}",
        requested.request.display(),
        requested.key.display(),
        requested.fingerprint,
    ))
}

fn renew(folder: &Path, new_key: bool, out: &mut dyn Write) -> Result<(), Stop> {
    let requested = party::renew(folder, new_key, &mut OsEntropy)?;
    let own = Own::load(folder)?;
    let identity = party::uri_of(&own.certificate).unwrap_or_default();
    let until = validity(&own.certificate).map(|(_, not_after)| day(not_after)).unwrap_or_default();
    say_requested(&format!("{identity}, whose certificate expires on {until}"), &requested, out)
}

fn install(folder: &Path, out: &mut dyn Write) -> Result<(), Stop> {
    let own = party::install(folder)?;
    let until = validity(&own.certificate).map(|(_, not_after)| day(not_after)).unwrap_or_default();
    let fingerprint = party::key_fingerprint(&own.key.verifying_key());
    let identity = party::uri_of(&own.certificate).unwrap_or_default();
    print(writeln!(out, "{identity} until {until}, with its new key\n  fingerprint {fingerprint}"))
}

fn show(folder: &Path, as_json: bool, out: &mut dyn Write) -> Result<(), Stop> {
    let party = Party::load(folder)?;
    let now = SystemClock.now();
    let certificate = &party.certificate;
    let identity = party::uri_of(certificate).unwrap_or_default();
    let of = |source| PartyError::Certificate { path: folder.join(CERTIFICATE_FILE), source };
    let (not_before, not_after) = validity(certificate).map_err(of)?;
    let refused = match party.anchor.verify_coordinator(certificate, now) {
        Err(TrustError::NotForClients) => party.anchor.verify_client(certificate, now).err(),
        other => other.err(),
    };
    let fingerprint = party::key_fingerprint(&party.key.verifying_key());
    let days_left = not_after.since(now).as_secs() / (24 * 60 * 60);
    let lists: Vec<_> = party.anchor.lists().collect();
    if as_json {
        let lists: Vec<_> = lists
            .iter()
            .map(|list| {
                json!({
                    "authority": list.authority.to_string(),
                    "number": list.number,
                    "revoked": list.n_revoked,
                    "next_update_ms": list.next_update,
                })
            })
            .collect();
        let shown = json!({
            "identity": identity,
            "key_fingerprint": fingerprint.to_string(),
            "certificate_fingerprint": Digest::of(certificate).to_string(),
            "not_before_ms": not_before,
            "not_after_ms": not_after,
            "days_left": days_left,
            "refused": refused.map(|error| error.to_string()),
            "revocation_lists": lists,
        });
        return print(writeln!(out, "{shown:#}"));
    }
    print(writeln!(out, "{identity}\n  fingerprint {fingerprint}"))?;
    print(writeln!(out, "  valid until {}, {days_left} days more", day(not_after)))?;
    if let Some(error) = refused {
        print(writeln!(out, "  NOT believed: {error}"))?;
    }
    for list in lists {
        let until = list.next_update.map_or("for ever".to_owned(), |at| format!("until {}", day(at)));
        let revoked = list.n_revoked;
        print(writeln!(out, "  revocation list number {}, {revoked} revoked, believed {until}", list.number))?;
    }
    Ok(())
}

fn renew_list(ca: &Path, days: Option<u32>, out: &mut dyn Write) -> Result<(), Stop> {
    let mut authority = Authority::open(ca)?;
    authority.renew_list(days, SystemClock.now())?;
    let list = authority.revocation_list_file();
    let believed = days.map_or("as long as the authority".to_owned(), |days| format!("for {days} days"));
    print(writeln!(out, "{}, believed {believed}: copy it to the coordinator and the clients", list.display()))
}

fn roll_over(ca: &Path, finish: bool, shut_out: bool, out: &mut dyn Write) -> Result<(), Stop> {
    let mut authority = Authority::open(ca)?;
    let now = SystemClock.now();
    let next = match finish {
        true => {
            authority.finish_roll_over(shut_out, now)?;
            "hold the fresh authority alone: copy both to every party"
        }
        false => {
            authority.roll_over(now, &mut OsEntropy)?;
            "hold both authorities: copy both files to every party, then have each renew its certificate"
        }
    };
    let (certificates, lists) = (authority.certificate_file(), authority.revocation_list_file());
    print(writeln!(out, "{} and {} {next}", certificates.display(), lists.display()))
}

fn approve(
    files: &[PathBuf],
    ca: &Path,
    approval: Approval,
    consent: &Consent,
    out: &mut dyn Write,
) -> Result<(), Stop> {
    let mut authority = Authority::open(ca)?;
    let mut requests: Vec<(&PathBuf, Request)> = Vec::new();
    for file in files {
        let refused = |what: String| {
            UserError::new(
                format!("{}: {what}; nothing was approved", file.display()),
                "have its sender make it with `eranos certs request`, or leave it out",
            )
        };
        let text = read_limited(file, PEM_LEN_MAX)?;
        let request = authority.review(&text).map_err(|error| refused(error.to_string()))?;
        if let Some((other, _)) =
            requests.iter().find(|(_, other)| other.identity == request.identity || other.key == request.key)
        {
            let other = other.display();
            return Err(refused(format!("has the identity or the key of {other}")).into());
        }
        authority.check_enrolment(&request, approval.replace_key)?;
        requests.push((file, request));
    }
    for (file, request) in &requests {
        let (identity, file, fingerprint) = (&request.identity, file.display(), request.fingerprint);
        print(writeln!(out, "{identity}\n  request {file}\n  fingerprint {fingerprint}"))?;
        if request.role == Role::Coordinator {
            print(writeln!(out, "  hosts {}", request.hosts().join(", ")))?;
        }
    }
    print(out.flush())?;
    agree(&requests, consent)?;
    for (file, request) in &requests {
        let now = SystemClock.now();
        let path = issue_beside(&mut authority, file, request, approval, now)?;
        let until = authority.enrolments().last().map(|enrolled| day(enrolled.not_after_ms)).unwrap_or_default();
        print(writeln!(out, "approved {} until {until}: {}", request.identity, path.display()))?;
    }
    Ok(())
}

/// Issues the certificate of a reviewed request and writes it beside the request's file, with the authority's
/// certificate and revocation list. Gives the certificate's path.
///
/// # Errors
/// As [`Authority::approve`], or if a file cannot be written.
pub fn issue_beside(
    authority: &mut Authority,
    file: &Path,
    request: &Request,
    approval: Approval,
    now: Timestamp,
) -> Result<PathBuf, AuthorityError> {
    let certificate = authority.approve(request, approval, now, &mut OsEntropy)?;
    let folder = file.parent().unwrap_or(Path::new(""));
    let path = folder.join(certificate_name(file));
    write_atomic(&path, pem("CERTIFICATE", &certificate).as_bytes())?;
    write_atomic(&folder.join(AUTHORITY_FILE), authority.certificate_pem().as_bytes())?;
    write_atomic(&folder.join(REVOCATION_LIST_FILE), &authority.revocation_list_pem()?)?;
    Ok(path)
}

/// Asks the operator, or checks what they said on the command line.
fn agree(requests: &[(&PathBuf, Request)], consent: &Consent) -> Result<(), UserError> {
    match consent {
        Consent::Given => Ok(()),
        Consent::To(fingerprints) => {
            match requests.iter().find(|(_, request)| !fingerprints.contains(&request.fingerprint)) {
                None => Ok(()),
                Some((file, request)) => Err(UserError::new(
                    format!("{} has the fingerprint {}, not one of those given", file.display(), request.fingerprint),
                    "ask its sender to read out the fingerprint again: someone may have exchanged the request",
                )),
            }
        }
        Consent::Ask => {
            if !io::stdin().is_terminal() {
                return Err(UserError::new(
                    "nobody is here to compare the fingerprints; nothing was approved",
                    "run it in a terminal, or pass --fingerprint SHA256 for each request, or --yes if you made them",
                ));
            }
            eprint!("Did each sender read out just this fingerprint to you? [y/N] ");
            let mut answer = String::new();
            // Without an answer there is no consent.
            let _ = io::stderr().flush().and_then(|()| io::stdin().lock().read_line(&mut answer));
            match answer.trim() {
                "y" | "Y" | "yes" => Ok(()),
                _ => Err(UserError::new("nothing was approved", "compare the fingerprints first, then answer y")),
            }
        }
    }
}

/// `request.pem` becomes `certificate.pem`, and `silo-1.pem` becomes `silo-1.certificate.pem`.
fn certificate_name(request: &Path) -> String {
    let stem = request.file_stem().and_then(OsStr::to_str).unwrap_or_default();
    match stem.strip_suffix("request") {
        Some(stem) => format!("{stem}{CERTIFICATE_FILE}"),
        None => format!("{stem}.{CERTIFICATE_FILE}"),
    }
}

fn revoke(names: &[String], ca: &Path, out: &mut dyn Write) -> Result<(), Stop> {
    let mut authority = Authority::open(ca)?;
    for name in names {
        let revoked = authority.revoke(name, SystemClock.now())?;
        let identity = revoked.first().map(|enrolled| enrolled.identity.clone()).unwrap_or_default();
        let list = authority.revocation_list_file();
        print(writeln!(out, "revoked {identity}: copy {} to the coordinator and the clients", list.display()))?;
    }
    Ok(())
}

fn list(ca: &Path, as_json: bool, out: &mut dyn Write) -> Result<(), Stop> {
    let authority = Authority::open(ca)?;
    let now = SystemClock.now();
    if as_json {
        let all: Vec<_> = authority
            .enrolments()
            .iter()
            .map(|enrolled| {
                json!({
                    "identity": enrolled.identity,
                    "role": enrolled.role,
                    "name": enrolled.name,
                    "state": authority.state_of(enrolled, now),
                    "serial": enrolled.serial,
                    "key_fingerprint": enrolled.key_fingerprint.to_string(),
                    "certificate_fingerprint": enrolled.certificate_fingerprint.to_string(),
                    "not_before_ms": enrolled.not_before_ms,
                    "not_after_ms": enrolled.not_after_ms,
                    "revoked_ms": enrolled.revoked_ms,
                    "authority": enrolled.authority.to_string(),
                })
            })
            .collect();
        return print(writeln!(out, "{:#}", serde_json::Value::Array(all)));
    }
    let width = authority.enrolments().iter().map(|enrolled| enrolled.identity.len()).max().unwrap_or(8).max(8);
    print(writeln!(out, "{:width$}  {:8}  {:10}  fingerprint of its key", "identity", "state", "until"))?;
    for enrolled in authority.enrolments() {
        let (state, until) = (authority.state_of(enrolled, now), day(enrolled.not_after_ms));
        print(writeln!(out, "{:width$}  {state:8}  {until:10}  {}", enrolled.identity, enrolled.key_fingerprint))?;
    }
    Ok(())
}

fn print(result: io::Result<()>) -> Result<(), Stop> {
    result.map_err(Stop::Printing)
}

impl From<FileError> for UserError {
    fn from(error: FileError) -> Self {
        let next = match error.source.kind() {
            io::ErrorKind::NotFound => "check the path; `eranos certs --help` shows who makes which file",
            io::ErrorKind::PermissionDenied => "run it as the user who owns that folder",
            _ => "check the path and that the disk has room",
        };
        Self::new(error.to_string(), next)
    }
}

impl From<PartyError> for UserError {
    fn from(error: PartyError) -> Self {
        let next = match error {
            PartyError::File(error) => return error.into(),
            PartyError::Name(_) => "choose a name of a-z, 0-9, '-', '_' and '.', such as silo-1",
            PartyError::KeyExists { .. } => {
                "choose another --dir, or ask for a new certificate with `eranos certs renew`"
            }
            PartyError::Host { .. } => "pass --host once for each name, such as --host localhost --host 127.0.0.1",
            PartyError::Hosts { role: Role::Coordinator, .. } => {
                "pass --host 1 to 16 times: the names that clients dial"
            }
            PartyError::Hosts { role: Role::Client, .. } => "leave --host out: nobody dials a client",
            PartyError::Content { .. } => "put the file back from a copy, or make a new request in another folder",
            PartyError::KeyMismatch { .. } => "put the certificate beside the key it was requested with",
            PartyError::Anchor { .. } => {
                "get ca.pem and crl.pem from the authority's operator again, both of one authority"
            }
            PartyError::Certificate { .. } => "ask for a new certificate with `eranos certs renew`",
            PartyError::NothingToInstall { .. } => {
                "make a new key with `eranos certs renew --new-key`, and put its certificate there"
            }
            PartyError::OtherIdentity { .. } => "put the certificate into the folder of its own party",
            PartyError::ListGoesBack { .. } => "get the newest crl.pem from the authority's operator",
            PartyError::OtherDomain { .. } => "put ca.pem back: another trust domain needs a folder of its own",
            PartyError::Encoding(_) => "choose plainer names",
        };
        Self::new(error.to_string(), next)
    }
}

impl From<AuthorityError> for UserError {
    fn from(error: AuthorityError) -> Self {
        let next = match error {
            AuthorityError::File(error) => return error.into(),
            AuthorityError::Own(error) => return error.into(),
            AuthorityError::Exists { .. } => "choose another --dir; an authority's key is never overwritten",
            AuthorityError::NoAuthority { .. } => "pass its folder with --ca, or make one with `eranos certs init`",
            AuthorityError::Index { .. } => "put the file back from a copy",
            AuthorityError::Request(_) => "have its sender make it with `eranos certs request`",
            AuthorityError::OtherKey { .. } => {
                "ask the party whether it changed its key; if so, approve with --replace-key, which revokes the old one"
            }
            AuthorityError::KeyOfAnother { .. } => "have the sender make a key of its own in a new folder",
            AuthorityError::KeyRevoked { .. } => "have the sender make a new key in a new folder",
            AuthorityError::NobodyEnrolled { .. } => "`eranos certs list` shows who is",
            AuthorityError::Ambiguous { .. } => "pass the whole identity, as `eranos certs list` shows it",
            AuthorityError::Full => "make a new authority",
            AuthorityError::RollingOver => "when everybody has renewed: `eranos certs rollover --finish`",
            AuthorityError::NotRollingOver => "begin with `eranos certs rollover`, without --finish",
            AuthorityError::StillOfPrevious { .. } => {
                "have them run `eranos certs renew`, or pass --shut-out if they are gone"
            }
            AuthorityError::Validity { .. } => "pass fewer --days, at least 1",
            AuthorityError::Encoding(_) => "choose plainer names",
        };
        Self::new(error.to_string(), next)
    }
}
