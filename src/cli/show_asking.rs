//! What people read where a machine asks to be admitted, on either side.

use std::fmt::Write;

use serde_json::Value;

use super::show::{ago, parse};
use crate::daemon::report::{AdmittedReport, AskReport, AskingReport};

/// Returns what the machine that asks shows.
pub(super) fn asks(report: &AskReport) -> String {
    let (role, told) = if report.stores {
        let told = "Once admitted it keeps sealed bytes of the members, which it cannot open.";
        (" --role storage", told)
    } else {
        let told = "Once admitted it reads all that is in the volume, also what is older, and all \
                    members read what is\nwritten here.";
        ("", told)
    };
    format!(
        "{} asks the peer at {} to be admitted. On an admin's machine run\n\n  \
         dfs approve {}{role}\n\nand compare the four words that it shows: {}\n{told} They see its \
         name and its address.\nwaiting, for an hour at most; Ctrl-C gives up",
        report.name, report.address, report.code, report.words
    )
}

/// Returns the machines that ask.
pub(super) fn askings(value: &Value) -> Option<String> {
    let askings: Vec<AskingReport> = parse(value)?;
    if askings.is_empty() {
        return Some("nobody asks to be admitted".to_owned());
    }
    let mut out = String::new();
    for asking in askings {
        let _ = writeln!(
            out,
            "{}  {:<16} at {:<22} asks {}, since {}\n             four words: {}",
            asking.code,
            asking.name,
            asking.address,
            asking.told_by,
            ago(Some(asking.since_ms)),
            asking.words
        );
    }
    out.push_str(
        "Names are what the machines say. Compare the words with those on the screen there, then:\n  \
         dfs approve CODE [--role admin|writer|reader|storage] [--name NAME]\n  \
         dfs approve CODE --deny",
    );
    Some(out)
}

/// Returns what was done.
pub(super) fn admitted(value: &Value) -> Option<String> {
    let member: AdmittedReport = parse(value)?;
    let may = match member.role.as_str() {
        "storage" => "keeps sealed bytes, which it cannot open",
        "reader" => "reads all that is in the volume, also what is older",
        "writer" => "reads all that is in the volume, also what is older, and writes",
        _ => "reads all that is in the volume, also what is older, writes, admits and removes",
    };
    let short = member.peer_id.get(..8)?;
    Some(format!(
        "admitted {} ({short}) as {}: it {may}\nThe words on its screen are: {}. If they are not, \
         run dfs members remove {short}",
        member.name, member.role, member.words
    ))
}

/// Returns what was done.
pub(super) fn denied(value: &Value) -> Option<String> {
    let name: String = parse(value)?;
    Some(format!("denied {name}"))
}
