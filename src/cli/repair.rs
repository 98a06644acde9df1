//! `dfs repair`: rebuilds a damaged state folder.

use std::io::IsTerminal;

use serde_json::json;

use super::args::RepairArgs;
use super::exit::{Exit, complain};
use crate::base::text::legible;
use crate::daemon::{Repaired, repair};

pub(super) fn run(args: &RepairArgs) -> Exit {
    let live = std::io::stderr().is_terminal() && !args.json;
    let mut told = |line: &str| {
        if live {
            eprintln!("{}", legible(line));
        }
    };
    match repair(&args.state, &args.peer, &mut told) {
        Ok(repaired) if args.json => {
            println!("{}", as_json(&repaired));
            Exit::Done
        }
        Ok(repaired) => {
            for line in as_text(args, &repaired) {
                println!("{}", legible(&line));
            }
            Exit::Done
        }
        Err(error) => {
            complain("dfs repair", &error.to_string());
            error.kind().into()
        }
    }
}

fn as_json(repaired: &Repaired) -> serde_json::Value {
    json!({
        "aside": repaired.aside,
        "resumed": repaired.is_resumed,
        "volume_id": repaired.volume,
        "damages": repaired.damages,
        "members": repaired.members,
        "segments": repaired.segments,
        "loose_segments": repaired.loose_segments,
        "unsealed_changes": repaired.drafts,
        "chunks": repaired.chunks,
        "damaged_chunks": repaired.damaged_chunks,
    })
}

fn as_text(args: &RepairArgs, repaired: &Repaired) -> Vec<String> {
    let mut lines: Vec<String> = repaired
        .damages
        .iter()
        .map(|d| format!("was: {d}"))
        .collect();
    if repaired.is_resumed {
        lines.push("a repair that was cut short is ended".to_owned());
    } else {
        lines.push(format!("volume {}", repaired.volume));
        lines.push(match repaired.members.as_slice() {
            [] => "no other member was reached: what they have comes when they are".to_owned(),
            members => format!("what others have came from {}", members.join(", ")),
        });
        lines.push(format!(
            "{} segments and {} chunks are here, and {} changes of this machine that nobody had yet",
            repaired.segments, repaired.chunks, repaired.drafts
        ));
    }
    if repaired.loose_segments > 0 {
        lines.push(format!(
            "{} segments could be read that follow others which are nowhere: they are left out",
            repaired.loose_segments
        ));
    }
    if repaired.damaged_chunks > 0 {
        lines.push(format!(
            "{} chunks are damaged and are fetched anew from who has them",
            repaired.damaged_chunks
        ));
    }
    lines.push(format!(
        "{} is whole again: start as before. What was there lies in {}; remove it when all is well",
        args.state.display(),
        repaired.aside.display()
    ));
    lines
}
