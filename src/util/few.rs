//! Lists that mostly have one element.

use std::ops::{Deref, DerefMut};
use std::slice;

/// A list of which one element takes no room of its own: of ten thousands of files nearly each holds one client with one
/// address, and every block of the heap costs its head and what does not fit between others.
#[derive(Clone, Debug)]
pub(crate) enum Few<T> {
    /// One element.
    One([T; 1]),
    /// Any other number.
    Several(Box<[T]>),
}

impl<T> Default for Few<T> {
    fn default() -> Self {
        Self::Several(Box::default())
    }
}

impl<T> From<Vec<T>> for Few<T> {
    fn from(elements: Vec<T>) -> Self {
        match <[T; 1]>::try_from(elements) {
            Ok(one) => Self::One(one),
            Err(several) => Self::Several(several.into()),
        }
    }
}

impl<T> FromIterator<T> for Few<T> {
    fn from_iter<I: IntoIterator<Item = T>>(elements: I) -> Self {
        elements.into_iter().collect::<Vec<_>>().into()
    }
}

impl<T> Deref for Few<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match self {
            Self::One(one) => one,
            Self::Several(several) => several,
        }
    }
}

impl<T> DerefMut for Few<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        match self {
            Self::One(one) => one,
            Self::Several(several) => several,
        }
    }
}

impl<'f, T> IntoIterator for &'f Few<T> {
    type IntoIter = slice::Iter<'f, T>;
    type Item = &'f T;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_list_it_was_made_of() {
        for count in [0, 1, 2, 9] {
            let mut few: Few<u8> = (0..count).collect();
            assert!((&few).into_iter().copied().eq(0..count), "{count}");
            few.iter_mut().for_each(|number| *number += 1);
            assert!(few.iter().copied().eq(1..=count), "{count}");
            assert_eq!(matches!(few, Few::One(_)), count == 1);
        }
    }
}
