//! What is large: folders with many files, sparse and real files, many open files, deep paths; made
//! and checked on any filesystem, shared by short tests and long runs.

mod deep;
mod folder;
mod large;
mod open;
mod sparse;

pub use deep::{make_deep, remove_deep};
pub use folder::{ManyFiles, Step};
pub use large::LargeFile;
pub use open::OpenFiles;
pub use sparse::{SparseFacts, work_on_sparse};
