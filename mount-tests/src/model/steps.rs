//! What each operation does to both sides.

use std::collections::BTreeMap;

use super::acl::{ACCESS, Acl, DEFAULT};
use super::executor::{
    Allocate, Errno, Executor, Flags, Kind, Outcome, Place, SetTime, Subject, XattrSet,
};
use super::op::{Op, Where, name, xattr_name};
use super::run::{Met, Run};
use super::tree::{Body, Node, Stamp};

/// What an operation on attributes is done to.
enum Target {
    /// A node by its path.
    Node(usize),
    /// An open file, which may have lost its name.
    Open(usize),
}

impl<E: Executor> Run<E> {
    /// Returns a place: mostly one where something is, else any.
    fn place(&self, (dir, index): Where) -> (usize, Vec<u8>) {
        let dirs = self.tree.live(|node| node.kind() == Kind::Dir);
        let taken: Vec<_> = dirs
            .iter()
            .flat_map(|dir| {
                let names = self.tree.nodes[*dir].entries().keys();
                names.map(|name| (*dir, name.clone()))
            })
            .collect();
        match taken.len() {
            0 => (self.dir(dir), name(index)),
            _ if index.is_multiple_of(8) => (self.dir(dir), name(index / 8)),
            len => taken[index % len].clone(),
        }
    }

    fn any_place(&self, (dir, index): Where) -> (usize, Vec<u8>) {
        (self.dir(dir), name(index))
    }

    pub(super) fn change_names(&mut self, op: &Op) -> Option<Met> {
        match op {
            Op::Create {
                at,
                mode,
                exclusive,
                truncate,
                append,
            } => {
                let (dir, name) = self.any_place(*at);
                let flags = Flags {
                    truncate: *truncate,
                    append: *append,
                    exclusive: *exclusive,
                };
                self.create((dir, &name), *mode, flags)
            }
            Op::Mknod { at, kind } => {
                let (dir, name) = self.any_place(*at);
                let (kind, rdev) = match kind % 4 {
                    0 => (Kind::Fifo, 0),
                    1 => (Kind::Socket, 0),
                    2 => (Kind::CharDev, 0x501),
                    _ => (Kind::BlockDev, 0x802),
                };
                let body = Body::Special(kind);
                let (seen, made) = self.make((dir, &name), body, 0o666, |executor, at| {
                    executor.mknod(at, kind, 0o666, rdev)
                });
                if let Ok(node) = &made {
                    self.tree.nodes[*node].rdev = u64::from(rdev);
                }
                Some(Met::of(seen, made))
            }
            Op::Mkdir { at, mode } => {
                let (dir, name) = self.any_place(*at);
                let body = Body::Dir(BTreeMap::new(), dir);
                // mkdir(2) takes the permission bits and the sticky bit alone.
                let (seen, made) = self.make((dir, &name), body, mode & 0o1777, |executor, at| {
                    executor.mkdir(at, *mode)
                });
                Some(Met::of(seen, made))
            }
            Op::Symlink { at, len } => {
                let (dir, name) = self.any_place(*at);
                let target = vec![b't'; *len];
                if let Some(errno) = match len {
                    0 => Some(Errno::NOENT),
                    4096.. => Some(Errno::NAMETOOLONG),
                    _ => None,
                } {
                    let path = self.tree.path(dir);
                    let at = Place {
                        dir: &path,
                        name: &name,
                    };
                    return Some(Met::failing(self.executor.symlink(at, &target), errno));
                }
                let body = Body::Symlink(target.clone());
                let (seen, made) = self.make((dir, &name), body, 0o777, |executor, at| {
                    executor.symlink(at, &target)
                });
                Some(Met::of(seen, made))
            }
            op => Some(self.move_names(op)),
        }
    }

    fn move_names(&mut self, op: &Op) -> Met {
        let from = self.executor.now();
        match op {
            Op::Link { node, at } => {
                let nodes = self.tree.live(|_| true);
                let node = nodes[node % nodes.len()];
                let path = self.tree.path(node);
                let (dir, name) = self.any_place(*at);
                let dir_path = self.tree.path(dir);
                let place = Place {
                    dir: &dir_path,
                    name: &name,
                };
                let seen = self.executor.link(&path, place);
                let now = self.stamp(from);
                Met {
                    seen,
                    expected: self.tree.link(node, (dir, &name), now),
                }
            }
            Op::Unlink { at } | Op::Rmdir { at } => {
                let (dir, name) = self.place(*at);
                let dir_path = self.tree.path(dir);
                let place = Place {
                    dir: &dir_path,
                    name: &name,
                };
                let is_unlink = matches!(op, Op::Unlink { .. });
                let seen = match is_unlink {
                    true => self.executor.unlink(place),
                    false => self.executor.rmdir(place),
                };
                let now = self.stamp(from);
                let expected = match is_unlink {
                    true => self.tree.unlink((dir, &name), now),
                    false => self.tree.rmdir((dir, &name), now),
                };
                Met { seen, expected }
            }
            Op::Rename {
                from: a,
                to: b,
                how,
            } => {
                let (from_dir, from_name) = self.place(*a);
                let (to_dir, to_name) = match b.1 % 3 {
                    0 => self.place((b.0, b.1 / 3)),
                    _ => self.any_place((b.0, b.1 / 3)),
                };
                let (a, b) = (self.tree.path(from_dir), self.tree.path(to_dir));
                let seen = self.executor.rename(
                    Place {
                        dir: &a,
                        name: &from_name,
                    },
                    Place {
                        dir: &b,
                        name: &to_name,
                    },
                    *how,
                );
                let now = self.stamp(from);
                let source = self.tree.child(from_dir, &from_name);
                let (a, b) = ((from_dir, &from_name[..]), (to_dir, &to_name[..]));
                let expected = self.tree.rename(a, b, *how, now);
                // What is moved is handed over first: no empty file after a crash.
                if let (Some(source), Ok(())) = (source, &expected) {
                    self.tree.nodes[source].hand_over();
                }
                Met { seen, expected }
            }
            _ => unreachable!("not an operation on names"),
        }
    }

    pub(super) fn change_contents(&mut self, op: &Op) -> Option<Met> {
        match op {
            Op::Open {
                at,
                truncate,
                append,
            } => {
                let (dir, name) = self.place(*at);
                let flags = Flags {
                    truncate: *truncate,
                    append: *append,
                    exclusive: false,
                };
                self.open_at((dir, &name), flags)
            }
            Op::Truncate { node, size } => self.truncate(*node, *size),
            Op::Close { file } => {
                let index = file.checked_rem(self.open.len())?;
                let open = self.open.swap_remove(index);
                let seen = self.executor.close(open.file);
                self.tree.nodes[open.node].hand_over();
                Some(Met::fine(seen))
            }
            Op::Copy {
                from,
                to,
                at,
                to_at,
                len,
            } => self.copy((*from, *at), (*to, *to_at), *len),
            op => self.use_file(op),
        }
    }

    fn truncate(&mut self, node: usize, size: u64) -> Option<Met> {
        let nodes = self.tree.live(|node| node.kind() != Kind::Symlink);
        let node = nodes[node % nodes.len()];
        let path = self.tree.path(node);
        let from = self.executor.now();
        let seen = self.executor.truncate(Subject::Path(&path), size);
        let now = self.stamp(from);
        match self.tree.nodes[node].kind() {
            Kind::File => {
                self.tree.nodes[node].change(now, |content| content.resize(size));
                self.drop_privileges(node);
                if self.open.iter().all(|open| open.node != node) {
                    self.tree.nodes[node].hand_over();
                }
                Some(Met::fine(seen))
            }
            Kind::Dir => Some(Met::failing(seen, Errno::ISDIR)),
            _ => Some(Met::failing(seen, Errno::INVAL)),
        }
    }

    fn use_file(&mut self, op: &Op) -> Option<Met> {
        let (Op::Write { file, .. }
        | Op::Ftruncate { file, .. }
        | Op::Allocate { file, .. }
        | Op::Flush { file }
        | Op::Fsync { file, .. }) = op
        else {
            unreachable!("not an operation on an open file")
        };
        self.open_for(*file);
        let index = file.checked_rem(self.open.len())?;
        let from = self.executor.now();
        let open = &self.open[index];
        let (file, executor) = (&open.file, &mut self.executor);
        let seen = match op {
            Op::Write {
                at,
                len,
                byte,
                durable,
                ..
            } => executor.write(file, *at, &filled(*len, *byte), *durable),
            Op::Ftruncate { size, .. } => executor.truncate(Subject::Open(file), *size),
            Op::Allocate { at, len, how, .. } => executor.allocate(file, *at, *len, *how),
            Op::Flush { .. } => executor.flush(file),
            Op::Fsync { data_only, .. } => executor.fsync(file, *data_only),
            _ => unreachable!("matched above"),
        };
        let (append, node) = (open.append, open.node);
        let now = self.stamp(from);
        if !matches!(op, Op::Flush { .. } | Op::Fsync { .. }) {
            self.drop_privileges(node);
        }
        let node = &mut self.tree.nodes[node];
        match op {
            Op::Write { at, len, byte, .. } => node.change(now, |content| {
                let at = if append { content.size() } else { *at };
                content.put(at, &filled(*len, *byte));
            }),
            Op::Ftruncate { size, .. } => node.change(now, |content| content.resize(*size)),
            Op::Allocate { at, len, how, .. } => node.change(now, |content| {
                let end = at + len;
                if let Allocate::Punch | Allocate::Zero(_) = how {
                    content.clear(*at, end);
                }
                let keeps_size = matches!(
                    how,
                    Allocate::Punch | Allocate::Zero(true) | Allocate::Reserve(true)
                );
                if !keeps_size && end > content.size() {
                    content.resize(end);
                }
            }),
            _ => node.hand_over(),
        }
        let is_durable = match op {
            Op::Write { durable, len, .. } => *durable && *len > 0,
            op => matches!(op, Op::Fsync { .. }),
        };
        if is_durable {
            node.hand_over();
            self.all_is_durable();
        }
        Some(Met::fine(seen))
    }

    fn copy(&mut self, from: (usize, u64), to: (usize, u64), len: u64) -> Option<Met> {
        self.open_for(from.0);
        self.open_for(to.0);
        let source = &self.open[from.0.checked_rem(self.open.len())?];
        let target = &self.open[to.0 % self.open.len()];
        let (source_node, target_node) = (source.node, target.node);
        let began = self.executor.now();
        let copied = self
            .executor
            .copy((&source.file, from.1), (&target.file, to.1), len);
        let append = target.append;
        let now = self.stamp(began);
        if append {
            return Some(Met::failing(copied.map(drop), Errno::BADF));
        }
        let content = self.tree.nodes[source_node].content();
        let mut len = len.min(content.size().saturating_sub(from.1));
        if let Ok(count) = copied
            && self.is_failing
        {
            // What came before the failure is there.
            len = len.min(count);
        }
        let overlaps = from.1 < to.1 + len && to.1 < from.1 + len;
        if source_node == target_node && overlaps {
            return Some(Met::failing(copied.map(drop), Errno::INVAL));
        }
        let (bytes, stored) = content.part(from.1, from.1 + len, to.1);
        if !bytes.is_empty() {
            // Its bytes are taken from the volume.
            self.tree.nodes[source_node].hand_over();
            self.tree.nodes[target_node]
                .change(now, |content| content.put_with_holes(to.1, &bytes, &stored));
            self.drop_privileges(target_node);
        }
        let expected = match copied {
            Ok(count) if count != len => Err(Errno::IO),
            _ => Ok(()),
        };
        Some(Met {
            seen: copied.map(drop),
            expected,
        })
    }

    /// Returns a node with a name or an open file, and by what to name it.
    fn target(&self, index: usize, wanted: impl Fn(&Node) -> bool) -> Option<(Target, usize)> {
        let nodes = self.tree.live(&wanted);
        let open: Vec<usize> = (0..self.open.len())
            .filter(|open| wanted(&self.tree.nodes[self.open[*open].node]))
            .collect();
        let index = index.checked_rem(nodes.len() + open.len())?;
        Some(match nodes.get(index) {
            Some(node) => (Target::Node(*node), *node),
            None => {
                let open = open[index - nodes.len()];
                (Target::Open(open), self.open[open].node)
            }
        })
    }

    pub(super) fn change_attributes(&mut self, op: &Op) -> Option<Met> {
        let (Op::Chmod { node: index, .. }
        | Op::Chown { node: index, .. }
        | Op::Utimes { node: index, .. }
        | Op::SetXattr { node: index, .. }
        | Op::RemoveXattr { node: index, .. }
        | Op::SetAcl { node: index, .. }
        | Op::RemoveAcl { node: index, .. }) = op
        else {
            unreachable!("not an operation on attributes")
        };
        // A symlink has neither permission bits of its own nor lists.
        let links = !matches!(
            op,
            Op::Chmod { .. } | Op::SetAcl { .. } | Op::RemoveAcl { .. }
        );
        let (target, node) = self.target(*index, |node| links || node.kind() != Kind::Symlink)?;
        let path = match target {
            Target::Node(node) => self.tree.path(node),
            Target::Open(_) => Vec::new(),
        };
        let subject = match target {
            Target::Node(_) => Subject::Path(&path),
            Target::Open(open) => Subject::Open(&self.open[open].file),
        };
        let from = self.executor.now();
        let seen = attribute_of(&mut self.executor, op, subject);
        let now = self.stamp(from);
        let expected = attribute_in(&mut self.tree.nodes[node], op, now);
        Some(Met { seen, expected })
    }
}

/// Changes an attribute of the filesystem.
fn attribute_of<E: Executor>(executor: &mut E, op: &Op, subject: Subject<'_, E::File>) -> Outcome {
    let acl_name = |default: bool| if default { DEFAULT } else { ACCESS };
    match op {
        Op::Chmod { mode, .. } => executor.chmod(subject, *mode),
        Op::Chown { uid, gid, .. } => executor.chown(subject, *uid, *gid),
        Op::Utimes { atime, mtime, .. } => executor.utimes(subject, *atime, *mtime),
        Op::SetXattr { name, len, how, .. } => {
            executor.set_xattr(subject, &xattr_name(*name), &vec![*len as u8; *len], *how)
        }
        Op::RemoveXattr { name, .. } => executor.remove_xattr(subject, &xattr_name(*name)),
        Op::SetAcl { default, list, .. } => {
            let value = Acl::sample(*list).encode();
            executor.set_xattr(subject, acl_name(*default), &value, XattrSet::Either)
        }
        Op::RemoveAcl { default, .. } => executor.remove_xattr(subject, acl_name(*default)),
        _ => unreachable!("not an operation on attributes"),
    }
}

/// Changes an attribute of the naive tree.
fn attribute_in(node: &mut Node, op: &Op, now: Stamp) -> Outcome {
    match op {
        Op::Chmod { mode, .. } => {
            node.chmod(*mode, now);
            Ok(())
        }
        Op::Chown { uid, gid, .. } => {
            node.chown(*uid, *gid, now);
            Ok(())
        }
        Op::Utimes { atime, mtime, .. } => {
            if (*atime, *mtime) == (SetTime::Omit, SetTime::Omit) {
                return Ok(());
            }
            // With a changed content the times wait, too.
            if !node.unwritten.is_empty() {
                node.keep_version();
            }
            node.ctime = now;
            match mtime {
                SetTime::Omit => {}
                SetTime::Now => node.mtime = now,
                SetTime::At(time) => node.mtime = Stamp::exact(*time),
            }
            Ok(())
        }
        Op::SetXattr { name, len, how, .. } => {
            node.set_xattr(&xattr_name(*name), vec![*len as u8; *len], *how, now)
        }
        Op::RemoveXattr { name, .. } => node.remove_xattr(&xattr_name(*name), now),
        Op::SetAcl { default, list, .. } => node.set_acl(*default, &Acl::sample(*list), now),
        Op::RemoveAcl { default, .. } => node.remove_acl(*default, now),
        _ => unreachable!("not an operation on attributes"),
    }
}

impl Met {
    fn of(seen: Outcome, made: Outcome<usize>) -> Self {
        Self {
            seen,
            expected: made.map(drop),
        }
    }
}

fn filled(len: u64, byte: u8) -> Vec<u8> {
    vec![byte; usize::try_from(len).expect("writes fit the memory")]
}
