//! A list that stores a single element inline, so that one-element lists need no allocation.

use std::ops::{Deref, DerefMut};
use std::slice;

/// A list that stores a single element inline and any other number on the heap.
///
/// Nearly each of tens of thousands of policy files names one client with one address; a heap block for each would cost
/// the allocator's header and rounding.
#[derive(Clone, Debug)]
pub(crate) enum SmallList<T> {
    One([T; 1]),
    /// Zero elements, or two and more.
    Several(Box<[T]>),
}

impl<T> Default for SmallList<T> {
    fn default() -> Self {
        Self::Several(Box::default())
    }
}

impl<T> From<Vec<T>> for SmallList<T> {
    fn from(elements: Vec<T>) -> Self {
        match <[T; 1]>::try_from(elements) {
            Ok(one) => Self::One(one),
            Err(several) => Self::Several(several.into()),
        }
    }
}

impl<T> FromIterator<T> for SmallList<T> {
    fn from_iter<I: IntoIterator<Item = T>>(elements: I) -> Self {
        elements.into_iter().collect::<Vec<_>>().into()
    }
}

impl<T> Deref for SmallList<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match self {
            Self::One(one) => one,
            Self::Several(several) => several,
        }
    }
}

impl<T> DerefMut for SmallList<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        match self {
            Self::One(one) => one,
            Self::Several(several) => several,
        }
    }
}

impl<'f, T> IntoIterator for &'f SmallList<T> {
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
    fn list_has_the_elements_it_was_collected_from() {
        for count in [0, 1, 2, 9] {
            let mut list: SmallList<u8> = (0..count).collect();
            assert!((&list).into_iter().copied().eq(0..count), "{count}");
            list.iter_mut().for_each(|number| *number += 1);
            assert!(list.iter().copied().eq(1..=count), "{count}");
            assert_eq!(matches!(list, SmallList::One(_)), count == 1);
        }
    }
}
