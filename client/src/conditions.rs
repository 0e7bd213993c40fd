//! When a client takes part at all, as its owner says in `client.toml`: hours of the day, load, battery, and a command of
//! its own. They are looked at before a check-in and never inside a round: a round that was begun is paid for by everybody
//! in it. What cannot be read does not hold.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde::Deserialize;

/// When this client takes part; always, if nothing is said.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(try_from = "Toml")]
pub struct Conditions {
    hours: Vec<Hours>,
    load_max: Option<f64>,
    on_battery: Option<bool>,
    battery_min: Option<f64>,
    command: Option<Vec<String>>,
}

/// The section as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Toml {
    #[serde(default)]
    hours: Vec<String>,
    load_max: Option<f64>,
    on_battery: Option<bool>,
    battery_min: Option<f64>,
    command: Option<Vec<String>>,
}

impl TryFrom<Toml> for Conditions {
    type Error = String;

    fn try_from(toml: Toml) -> Result<Self, String> {
        let Toml { hours, load_max, on_battery, battery_min, command } = toml;
        let hours = hours.iter().map(|hours| Hours::parse(hours)).collect::<Result<_, _>>()?;
        if load_max.is_some_and(|most| !most.is_finite() || most <= 0.0) {
            return Err("load_max is not a positive number".to_owned());
        }
        if battery_min.is_some_and(|least| !(0.0..=1.0).contains(&least)) {
            return Err("battery_min does not lie between 0 and 1".to_owned());
        }
        if command.as_ref().is_some_and(Vec::is_empty) {
            return Err("command names no program".to_owned());
        }
        Ok(Self { hours, load_max, on_battery, battery_min, command })
    }
}

/// A stretch of the day in minutes after midnight, the end not in it. It may go over midnight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Hours {
    from: u16,
    until: u16,
}

impl Hours {
    fn parse(text: &str) -> Result<Self, String> {
        let minutes = |time: &str| {
            let (hour, minute) = time.split_once(':').filter(|(hour, minute)| hour.len() == 2 && minute.len() == 2)?;
            let (hour, minute) = (hour.parse::<u16>().ok()?, minute.parse::<u16>().ok()?);
            (minute < 60 && (hour < 24 || (hour, minute) == (24, 0))).then_some(60 * hour + minute)
        };
        let parsed = text.split_once('-').and_then(|(from, until)| Some((minutes(from)?, minutes(until)?)));
        let (from, until) = parsed.ok_or_else(|| format!("hours has {text:?}, which is not like 22:00-06:00"))?;
        if from == until {
            return Err(format!("hours has {text:?}, which is empty"));
        }
        Ok(Self { from, until })
    }

    fn hold(self, minute: u16) -> bool {
        match self.from < self.until {
            true => (self.from..self.until).contains(&minute),
            false => minute >= self.from || minute < self.until,
        }
    }
}

impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, until } = self;
        write!(f, "{:02}:{:02}-{:02}:{:02}", from / 60, from % 60, until / 60, until % 60)
    }
}

/// What does not hold, as a fragment that reads after "waits: ".
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Unmet {
    /// Another hour.
    #[error("it is {:02}:{:02}, and the hours are {hours}", minute / 60, minute % 60)]
    Hours {
        /// Minutes after midnight, local time.
        minute: u16,
        /// The hours.
        hours: String,
    },
    /// The machine has other things to do.
    #[error("the load average is {load:.2}, at most {most:.2} is allowed")]
    Load {
        /// Over one minute.
        load: f64,
        /// The most.
        most: f64,
    },
    /// No mains.
    #[error("this machine runs on battery")]
    OnBattery,
    /// A battery that is too low.
    #[error("{battery} is at {:.0} %, at least {:.0} % is asked for", 100.0 * level, 100.0 * least)]
    Battery {
        /// Its name.
        battery: String,
        /// Its level, 0 to 1.
        level: f64,
        /// The least.
        least: f64,
    },
    /// The owner's command says no.
    #[error("the command {program:?} says no ({status})")]
    Command {
        /// The program.
        program: String,
        /// How it ended.
        status: String,
    },
    /// It cannot be known.
    #[error("{what} cannot be read: {reason}")]
    Unknown {
        /// What.
        what: String,
        /// Why not.
        reason: String,
    },
}

/// Where a machine says how it does.
#[derive(Clone, Debug)]
pub struct Machine {
    power_supplies: PathBuf,
    load: PathBuf,
}

impl Machine {
    /// The one that this process runs on.
    pub fn this() -> Self {
        Self { power_supplies: "/sys/class/power_supply".into(), load: "/proc/loadavg".into() }
    }

    /// One whose folder of power supplies and file of load averages lie elsewhere.
    pub fn at(power_supplies: PathBuf, load: PathBuf) -> Self {
        Self { power_supplies, load }
    }

    /// The load average over one minute.
    fn load(&self) -> Result<f64, Unmet> {
        let unknown = |reason: String| Unmet::Unknown { what: self.load.display().to_string(), reason };
        let text = fs::read_to_string(&self.load).map_err(|error| unknown(error.to_string()))?;
        let first = text.split_whitespace().next().and_then(|word| word.parse::<f64>().ok());
        first.filter(|load| load.is_finite()).ok_or_else(|| unknown("it does not begin with a number".to_owned()))
    }

    /// Whether mains are missing, and the batteries with their levels, 0 to 1 (the kernel's `sysfs-class-power`). A machine
    /// that has no supply listed at all is fed by mains; batteries of peripherals do not count.
    fn power(&self) -> Result<(bool, Vec<(String, f64)>), Unmet> {
        let unknown = |path: &Path, error: &dyn fmt::Display| Unmet::Unknown {
            what: path.display().to_string(),
            reason: error.to_string(),
        };
        let folder = fs::read_dir(&self.power_supplies).map_err(|error| unknown(&self.power_supplies, &error))?;
        let (mut mains, mut discharging, mut batteries) = (false, false, Vec::new());
        for entry in folder.take(SUPPLIES_MAX) {
            let supply = entry.map_err(|error| unknown(&self.power_supplies, &error))?.path();
            let read = |name: &str| fs::read_to_string(supply.join(name)).map(|text| text.trim().to_owned());
            let kind = read("type").map_err(|error| unknown(&supply.join("type"), &error))?;
            match kind.as_str() {
                "Battery" if read("scope").is_ok_and(|scope| scope == "Device") => {}
                "Battery" | "UPS" => {
                    let status = read("status").map_err(|error| unknown(&supply.join("status"), &error))?;
                    discharging |= status == "Discharging";
                    let level = read("capacity").map_err(|error| unknown(&supply.join("capacity"), &error))?;
                    let level = level.parse::<u8>().map_err(|error| unknown(&supply.join("capacity"), &error))?;
                    let name = supply.file_name().unwrap_or_default().to_string_lossy().into_owned();
                    batteries.push((name, f64::from(level) / 100.0));
                }
                // Not every port says whether it is fed.
                _ => mains |= read("online").is_ok_and(|online| online != "0"),
            }
        }
        batteries.sort_by(|a, b| a.1.total_cmp(&b.1));
        Ok((discharging && !mains, batteries))
    }
}

impl Conditions {
    /// The first condition that does not hold; none if all do. It takes up to [`COMMAND_TIME_MAX`] where there is a command.
    pub fn unmet(&self, machine: &Machine) -> Option<Unmet> {
        let now = jiff::ZonedDateTime::now();
        self.unmet_at(60 * now.hour().unsigned_abs() as u16 + now.minute().unsigned_abs() as u16, machine).err()
    }

    /// The same, so many minutes after midnight.
    fn unmet_at(&self, minute: u16, machine: &Machine) -> Result<(), Unmet> {
        if !self.hours.is_empty() && !self.hours.iter().any(|hours| hours.hold(minute)) {
            let hours: Vec<String> = self.hours.iter().map(Hours::to_string).collect();
            return Err(Unmet::Hours { minute, hours: hours.join(", ") });
        }
        if let Some(most) = self.load_max {
            let load = machine.load()?;
            if load > most {
                return Err(Unmet::Load { load, most });
            }
        }
        if self.on_battery == Some(false) || self.battery_min.is_some() {
            let (on_battery, batteries) = machine.power()?;
            if on_battery && self.on_battery == Some(false) {
                return Err(Unmet::OnBattery);
            }
            let lowest = batteries.into_iter().next();
            if let (Some(least), Some((battery, level))) = (self.battery_min, lowest)
                && level < least
            {
                return Err(Unmet::Battery { battery, level, least });
            }
        }
        match &self.command {
            Some(command) => run(command),
            None => Ok(()),
        }
    }
}

/// Runs the owner's command and waits for it. Exit status 0 means yes.
fn run(command: &[String]) -> Result<(), Unmet> {
    let Some((program, arguments)) = command.split_first() else { return Ok(()) };
    let unknown = |error: io::Error| Unmet::Unknown { what: format!("{program:?}"), reason: error.to_string() };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(unknown)?;
    let until = Instant::now() + COMMAND_TIME_MAX;
    let status = loop {
        match child.try_wait().map_err(unknown)? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => break status.to_string(),
            None if Instant::now() >= until => {
                // It may have ended at this very moment.
                let _ = child.kill();
                let _ = child.wait();
                break format!("no answer within {} s", COMMAND_TIME_MAX.as_secs());
            }
            None => thread::sleep(COMMAND_LOOK_EVERY),
        }
    };
    Err(Unmet::Command { program: program.clone(), status })
}

/// How long the owner's command may take.
pub const COMMAND_TIME_MAX: Duration = Duration::from_secs(10);
/// How often it is looked at.
const COMMAND_LOOK_EVERY: Duration = Duration::from_millis(10);
/// Power supplies that are looked at.
const SUPPLIES_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine of files; each supply is its folder's name with its files.
    fn machine(load: &str, supplies: &[(&str, &[(&str, &str)])]) -> (tempfile::TempDir, Machine) {
        let folder = tempfile::tempdir().expect("a folder");
        let machine = Machine::at(folder.path().join("power_supply"), folder.path().join("loadavg"));
        fs::write(&machine.load, load).expect("written");
        fs::create_dir(&machine.power_supplies).expect("made");
        for (name, files) in supplies {
            let supply = machine.power_supplies.join(name);
            fs::create_dir(&supply).expect("made");
            for (file, text) in *files {
                fs::write(supply.join(file), format!("{text}\n")).expect("written");
            }
        }
        (folder, machine)
    }

    fn conditions(toml: &str) -> Result<Conditions, String> {
        toml::from_str(toml).map_err(|error| error.message().to_owned())
    }

    #[track_caller]
    fn check(toml: &str, minute: u16, machine: &Machine, expected: &str) {
        let unmet = conditions(toml).expect("conditions").unmet_at(minute, machine).err();
        let said = unmet.map(|unmet| unmet.to_string()).unwrap_or_default();
        match expected {
            "" => assert_eq!(said, "", "{toml}"),
            _ => assert!(said.contains(expected), "{toml}: {said:?}"),
        }
    }

    #[test]
    fn hours_hold_over_midnight_and_to_the_minute() {
        let (_folder, machine) = machine("", &[]);
        let night = r#"hours = ["22:00-06:00", "12:30-13:00"]"#;
        for (minute, holds) in
            [(0, true), (359, true), (360, false), (749, false), (750, true), (780, false), (1320, true)]
        {
            let expected = if holds { "" } else { "and the hours are 22:00-06:00, 12:30-13:00" };
            check(night, minute, &machine, expected);
        }
        check(night, 1319, &machine, "it is 21:59");
        check(r#"hours = ["00:00-24:00"]"#, 1439, &machine, "");
        for wrong in
            ["22-6", "22:00", "22:00-24:01", "25:00-26:00", "1:00-2:00", "08:00-08:00", "08:60-09:00", "-1:00-02:00"]
        {
            assert!(conditions(&format!("hours = [{wrong:?}]")).is_err(), "{wrong}");
        }
    }

    #[test]
    fn load_holds_up_to_its_most_and_not_where_it_cannot_be_read() {
        let (folder, machine) = machine("1.50 0.40 0.30 1/234 5678", &[]);
        check("load_max = 1.5", 0, &machine, "");
        check("load_max = 1.49", 0, &machine, "the load average is 1.50, at most 1.49 is allowed");
        fs::write(folder.path().join("loadavg"), "busy").expect("written");
        check("load_max = 9", 0, &machine, "loadavg cannot be read: it does not begin with a number");
        fs::remove_file(folder.path().join("loadavg")).expect("there");
        check("load_max = 9", 0, &machine, "cannot be read: No such file");
        check("", 0, &machine, "");
        for wrong in ["load_max = 0", "load_max = nan", "load_max = -1", "load = 1"] {
            assert!(conditions(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_battery_is_the_machines_own_and_mains_are_any_that_are_there() {
        let battery =
            |status, capacity| ("BAT0", vec![("type", "Battery"), ("status", status), ("capacity", capacity)]);
        let mains = |online| ("AC", vec![("type", "Mains"), ("online", online)]);
        let mouse = (
            "hidpp_battery_0",
            vec![("type", "Battery"), ("scope", "Device"), ("status", "Discharging"), ("capacity", "5")],
        );
        let both = "on_battery = false\nbattery_min = 0.5";
        for (supplies, expected) in [
            (vec![], ""),
            (vec![mouse.clone()], ""),
            (vec![mains("1"), battery("Charging", "80"), mouse.clone()], ""),
            (vec![mains("0"), battery("Discharging", "80")], "this machine runs on battery"),
            (vec![battery("Discharging", "80")], "this machine runs on battery"),
            // A charger that is too weak.
            (vec![mains("1"), battery("Discharging", "50")], ""),
            (vec![mains("1"), battery("Charging", "49"), mouse], "BAT0 is at 49 %, at least 50 % is asked for"),
            (vec![("BAT0", vec![("type", "Battery"), ("status", "Full")])], "capacity cannot be read"),
            (vec![battery("Full", "full")], "capacity cannot be read"),
        ] {
            let supplies: Vec<(&str, &[(&str, &str)])> =
                supplies.iter().map(|(name, files)| (*name, files.as_slice())).collect();
            let (_folder, machine) = machine("", &supplies);
            check(both, 0, &machine, expected);
            check("on_battery = true", 0, &machine, "");
        }
        let nowhere = Machine::at("/nowhere".into(), "/nowhere".into());
        check("on_battery = false", 0, &nowhere, "/nowhere cannot be read");
        assert!(conditions("battery_min = 30").is_err());
    }

    #[test]
    fn a_command_says_yes_by_its_exit_status_and_is_not_waited_for_for_ever() {
        let (_folder, machine) = machine("", &[]);
        check(r#"command = ["true"]"#, 0, &machine, "");
        check(r#"command = ["sh", "-c", "exit 3"]"#, 0, &machine, r#"the command "sh" says no (exit status: 3)"#);
        check(r#"command = ["/nowhere/at-all"]"#, 0, &machine, r#""/nowhere/at-all" cannot be read"#);
        let began = Instant::now();
        check(r#"command = ["sleep", "600"]"#, 0, &machine, "no answer within 10 s");
        assert!(began.elapsed() < 3 * COMMAND_TIME_MAX);
        assert!(conditions("command = []").is_err());
    }
}
