//! Single behaviours and the failures that were found.
