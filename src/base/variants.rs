//! What the variants of an enum are called, asked of its decoder: so what counts them cannot be wrong.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, Visitor};

/// Returns what the variants of an enum are called, in the order of their numbers; none where the type is
/// no enum.
pub fn names<'de, T: Deserialize<'de>>() -> &'static [&'static str] {
    let mut names: &'static [&'static str] = &[];
    // It never decodes: all that is wanted is what it asks for.
    let _ = T::deserialize(Asked(&mut names));
    names
}

/// Returns how many variants an enum has. A number that is not below is of a newer program.
pub fn count<'de, T: Deserialize<'de>>() -> u32 {
    u32::try_from(names::<T>().len()).unwrap_or(u32::MAX)
}

struct Asked<'a>(&'a mut &'static [&'static str]);

/// That nothing decodes here.
#[derive(Debug)]
struct Nothing;

impl fmt::Display for Nothing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("only the names of variants are asked for")
    }
}

impl std::error::Error for Nothing {}

impl Error for Nothing {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self
    }
}

impl<'de> Deserializer<'de> for Asked<'_> {
    type Error = Nothing;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Nothing> {
        Err(Nothing)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Nothing> {
        *self.0 = variants;
        Err(Nothing)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
        option unit unit_struct newtype_struct seq tuple tuple_struct map struct identifier
        ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize)]
    #[expect(dead_code, reason = "only asked about")]
    enum Sample {
        One,
        Two { inside: u8 },
        Three(String),
    }

    #[test]
    fn an_enum_tells_its_variants_and_nothing_else_has_any() {
        assert_eq!(names::<Sample>(), ["One", "Two", "Three"]);
        assert_eq!(count::<Sample>(), 3);
        assert!(names::<u64>().is_empty() && names::<(u8, Sample)>().is_empty());
    }
}
