//! What else devices do, beside what all random laws draw.

use bytes::Bytes;
use dfs::base::Clock;
use dfs::volume::{Create, FileKind, Inode, OpKind, Place};

use super::super::cluster::{create, write};
use super::{Content, Found, Run};

/// Steps in which all write the same.
const ALIKE_STEPS: usize = 12;

/// The versions of access lists begin with this.
const ACL_VERSION: u32 = 2;

impl Run {
    /// Changes something in a way that the other laws do not draw.
    pub(super) fn change_otherwise(
        &mut self,
        index: usize,
        entries: &[Found],
        files: &[&Found],
        to: Place,
        there: Option<Inode>,
    ) {
        let device = &self.devices[index];
        let time = device.clock.wall();
        match self.rng.below(8) {
            0 => {
                if let Some(found) = self.pick(entries) {
                    let (name, value) = self.list();
                    let ino = found.inode.ino;
                    device.apply(OpKind::SetXattr {
                        ino,
                        name,
                        value,
                        time,
                    });
                }
            }
            1 => {
                if there.is_none() {
                    let kinds = [FileKind::Dir, FileKind::Dir, FileKind::File];
                    let kind = *self.pick(&kinds).unwrap();
                    if let OpKind::Create(made) = create(to, kind, time) {
                        let mode = self.rng.below(0o10000) as u32;
                        let xattrs = vec![self.list()];
                        device.apply(OpKind::Create(Create {
                            mode,
                            xattrs,
                            ..made
                        }));
                    }
                }
            }
            2 => {
                if let Some(found) = self.pick(files) {
                    let inode = found.inode.clone();
                    self.put_all(index, &inode, "");
                }
            }
            3 => {
                // A folder into another one.
                let dirs: Vec<&Found> = entries.iter().filter(|f| f.inode.is_dir()).collect();
                if let (Some(one), Some(two)) = (self.pick(&dirs), self.pick(&dirs)) {
                    let to = Place {
                        parent: two.inode.ino,
                        name: one.at.name.clone(),
                    };
                    let there = device.volume.dirent(to.parent, &to.name).unwrap();
                    let there = there.map(|there| device.inode(there.ino));
                    self.rename(index, one, to, there, time);
                }
            }
            4 => {
                // A save by a file beside, renamed over the old one.
                let named = files.iter().filter(|found| found.inode.nlink == 1);
                let named: Vec<&&Found> = named.collect();
                if let (Some(found), None) = (self.pick(&named), there) {
                    let (at, old) = (found.at.clone(), found.inode.clone());
                    let ino = device.apply(create(to.clone(), FileKind::File, time)).ino;
                    let inode = device.inode(ino);
                    self.write(index, &inode, time);
                    let inode = self.devices[index].inode(ino);
                    let beside = Found { at: to, inode };
                    self.rename(index, &beside, at, Some(old), time);
                }
            }
            _ => {
                // What the others write as well.
                let text = format!("<same{}>", self.steps / ALIKE_STEPS);
                if let Some(found) = self.pick(files) {
                    let inode = found.inode.clone();
                    self.put_all(index, &inode, &text);
                } else if there.is_none() {
                    let ino = device.apply(create(to, FileKind::File, time)).ino;
                    let inode = device.inode(ino);
                    self.put_all(index, &inode, &text);
                }
            }
        }
    }

    /// Replaces the content of a file.
    fn put_all(&mut self, index: usize, inode: &Inode, text: &str) {
        let device = &self.devices[index];
        let (ino, base) = (inode.ino, inode.version);
        self.model.go_on(base, &device.bytes_of(ino));
        let id = device.apply(write(ino, base, text)).id;
        self.model.issued(index, id);
        let token = text.to_owned();
        let (bytes, joined) = (device.bytes_of(ino), false);
        let content = Content {
            bytes,
            token,
            joined,
        };
        self.model.contents.insert(id, content);
        if text.is_empty() {
            // Nothing is lost with it.
            self.model.superseded.insert(id);
        } else {
            let same = self.model.by_token.entry(text.as_bytes().to_vec());
            same.or_default().push(id);
        }
    }

    /// Returns an access list, or what a folder hands on, for one user or group and a mask.
    fn list(&self) -> (Bytes, Bytes) {
        let names: [&[u8]; 2] = [b"system.posix_acl_access", b"system.posix_acl_default"];
        let name = *self.pick(&names).unwrap();
        let mut value = ACL_VERSION.to_le_bytes().to_vec();
        let named = [0x02, 0x08][self.rng.below(2) as usize];
        for tag in [0x01, named, 0x04, 0x10, 0x20] {
            let id = match tag {
                0x02 | 0x08 => 1 + self.rng.below(2) as u32,
                _ => u32::MAX,
            };
            value.extend_from_slice(&(tag as u16).to_le_bytes());
            value.extend_from_slice(&(self.rng.below(8) as u16).to_le_bytes());
            value.extend_from_slice(&id.to_le_bytes());
        }
        (Bytes::from_static(name), Bytes::from(value))
    }
}
