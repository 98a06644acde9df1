//! Admission by asking, as the daemon sees it: what is told to whoever waits for a start, and what
//! an admin is shown and decides.

use std::sync::Arc;
use std::time::Duration;

use super::error::DaemonError;
use super::facts::names;
use super::peer::Peer;
use super::report::{AdmittedReport, AskReport, AskingReport};
use crate::base::time::sleep;
use crate::crypto::spoken;
use crate::node::{AskedAt, AskingInfo, Node, NodeError, Role, RosterError};

/// How often a start that waits to be admitted looks whether anybody still waits for it.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Whoever waits for a start that takes its time.
pub trait Starter: Sync {
    /// Shows what is to be done for the start to go on.
    fn asks(&self, report: &AskReport);

    /// Says whether anybody still waits.
    fn is_there(&self) -> bool;
}

/// Returns what is told to a starter.
pub(super) fn report(at: AskedAt, name: &str, mounts: bool) -> AskReport {
    AskReport {
        code: at.code,
        words: at.words,
        address: at.addr.to_string(),
        name: name.to_owned(),
        stores: !mounts,
    }
}

/// Resolves when nobody waits for a start any more.
pub(super) async fn abandoned(starter: &dyn Starter) {
    while starter.is_there() {
        sleep(LOOK_EVERY).await;
    }
}

/// Returns the machines that ask to be admitted.
pub(super) fn list(peer: &Arc<Peer>) -> Result<Vec<AskingReport>, DaemonError> {
    if peer.node().role() != Some(Role::Admin) {
        return Err(NodeError::from(RosterError::NotAdmin).into());
    }
    let (names, now_ms) = (names(peer), peer.clock().wall_ms());
    let this = peer.node().id();
    let report = |asking: AskingInfo| {
        let at = asking.via.unwrap_or(this);
        AskingReport {
            code: asking.code(),
            words: asking.words(),
            name: asking.name,
            address: asking.addr.to_string(),
            since_ms: now_ms.saturating_sub(asking.since_ms),
            peer_id: asking.peer.to_string(),
            told_by: names.get(&at).cloned().unwrap_or_else(|| at.short()),
        }
    };
    Ok(peer.node().askings().into_iter().map(report).collect())
}

/// Returns what an admin is told as long as somebody asks.
pub(super) fn warning(node: &Node) -> Option<String> {
    if node.role() != Some(Role::Admin) {
        return None;
    }
    match &node.askings()[..] {
        [] => None,
        [one] => Some(format!("{} asks to be admitted: see dfs approve", one.name)),
        many => Some(format!(
            "{} machines ask to be admitted: see dfs approve",
            many.len()
        )),
    }
}

/// Admits the machine with a code.
pub(super) async fn approve(
    peer: &Arc<Peer>,
    code: &str,
    role: &str,
    name: Option<&str>,
) -> Result<AdmittedReport, DaemonError> {
    let role: Role = role.parse().map_err(|_| DaemonError::BadRequest {
        what: format!("unknown role {role}"),
    })?;
    let (asking, words) = find(peer, code)?;
    let member = peer.node().approve(asking.peer, role, name).await?;
    Ok(AdmittedReport {
        peer_id: member.id.to_string(),
        name: member.name,
        role: member.role.to_string(),
        words,
    })
}

/// Denies admission to the machine with a code; returns its name.
pub(super) fn deny(peer: &Arc<Peer>, code: &str) -> Result<String, DaemonError> {
    let (asking, _) = find(peer, code)?;
    peer.node().deny(asking.peer)?;
    Ok(asking.name)
}

/// Returns the machine with a code, and its words.
fn find(peer: &Arc<Peer>, code: &str) -> Result<(AskingInfo, String), DaemonError> {
    if peer.node().role() != Some(Role::Admin) {
        return Err(NodeError::from(RosterError::NotAdmin).into());
    }
    let Some(wanted) = spoken::parse_code(code) else {
        return Err(DaemonError::BadRequest {
            what: format!("{code} is no code: one looks like abcde-fghij"),
        });
    };
    let mut askings = peer.node().askings().into_iter();
    let asking = askings.find(|asking| asking.code() == wanted);
    let asking = asking.ok_or(DaemonError::CodeUnknown { code: wanted })?;
    let words = asking.words();
    Ok((asking, words))
}
