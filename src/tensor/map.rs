//! Hash maps and sets for the compiler's own tables. They do what those of the standard library do, for a fifth of the
//! code per pair of types: probing and growing stand here once for all. Iteration is in the order of insertion as long
//! as nothing is removed.

use std::{
    borrow::Borrow,
    fmt,
    hash::{Hash, Hasher},
    ops::Index,
};

/// A hash map.
#[derive(Clone)]
pub struct HashMap<K, V> {
    entries: Vec<(K, V)>,
    table: Table,
}

/// A hash set.
#[derive(Clone)]
pub struct HashSet<K>(HashMap<K, ()>);

impl<K, V> Default for HashMap<K, V> {
    fn default() -> HashMap<K, V> {
        HashMap {
            entries: Vec::new(),
            table: Table::default(),
        }
    }
}

impl<K: Hash + Eq, V> HashMap<K, V> {
    /// An empty map.
    pub fn new() -> HashMap<K, V> {
        HashMap::default()
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn position<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<usize>
    where
        K: Borrow<Q>,
    {
        if self.entries.is_empty() {
            return None;
        }
        let found = self.table.find(hash(key), &|at| {
            let own: &Q = self.entries[at].0.borrow();
            own == key
        })?;
        Some(found.0)
    }

    /// The position of `key`'s entry, which is made when there is none.
    fn place(&mut self, key: K, value: impl FnOnce() -> V) -> usize {
        if let Some(at) = self.position(&key) {
            return at;
        }
        self.table.push(hash(&key));
        self.entries.push((key, value()));
        self.entries.len() - 1
    }

    /// The value of a key.
    pub fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.position(key).map(|at| &self.entries[at].1)
    }

    /// The value of a key, to be changed.
    pub fn get_mut<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        self.position(key).map(|at| &mut self.entries[at].1)
    }

    /// Whether there is such a key.
    pub fn contains_key<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.position(key).is_some()
    }

    /// Sets the value of a key, and returns the one it had.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let mut value = Some(value);
        let at = self.place(key, || value.take().expect("made once"));
        value.map(|value| std::mem::replace(&mut self.entries[at].1, value))
    }

    /// The place of a key's value, which may have to be made.
    pub fn entry(&mut self, key: K) -> Entry<'_, K, V> {
        Entry { map: self, key }
    }

    fn get_or_insert_with(&mut self, key: K, value: impl FnOnce() -> V) -> &mut V {
        let at = self.place(key, value);
        &mut self.entries[at].1
    }

    /// Takes an entry out.
    pub fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let at = self.position(key)?;
        self.table.swap_remove(at);
        Some(self.entries.swap_remove(at).1)
    }

    /// Keys and values.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> + Clone {
        self.entries.iter().map(|(key, value)| (key, value))
    }

    /// Keys and values, the latter to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&K, &mut V)> {
        self.entries.iter_mut().map(|(key, value)| (&*key, value))
    }

    /// Keys.
    pub fn keys(&self) -> impl Iterator<Item = &K> + Clone {
        self.entries.iter().map(|(key, _)| key)
    }

    /// Values.
    pub fn values(&self) -> impl Iterator<Item = &V> + Clone {
        self.entries.iter().map(|(_, value)| value)
    }
}

/// A key's place in a map.
pub struct Entry<'a, K, V> {
    map: &'a mut HashMap<K, V>,
    key: K,
}

impl<'a, K: Hash + Eq, V> Entry<'a, K, V> {
    /// The value, made when there is none.
    pub fn or_insert_with(self, value: impl FnOnce() -> V) -> &'a mut V {
        self.map.get_or_insert_with(self.key, value)
    }

    /// The value, which is this one when there was none.
    pub fn or_insert(self, value: V) -> &'a mut V {
        self.or_insert_with(|| value)
    }

    /// The value, which is the default one when there was none.
    pub fn or_default(self) -> &'a mut V
    where
        V: Default,
    {
        self.or_insert_with(V::default)
    }
}

impl<K> Default for HashSet<K> {
    fn default() -> HashSet<K> {
        HashSet(HashMap::default())
    }
}

impl<K: Hash + Eq> HashSet<K> {
    /// An empty set.
    pub fn new() -> HashSet<K> {
        HashSet::default()
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a key; whether it was new.
    pub fn insert(&mut self, key: K) -> bool {
        self.0.insert(key, ()).is_none()
    }

    /// Takes a key out; whether it was there.
    pub fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.0.remove(key).is_some()
    }

    /// Whether the key is there.
    pub fn contains<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.0.contains_key(key)
    }

    /// The keys.
    pub fn iter(&self) -> impl Iterator<Item = &K> + Clone {
        self.0.keys()
    }
}

impl<K: Hash + Eq> Extend<K> for HashSet<K> {
    fn extend<I: IntoIterator<Item = K>>(&mut self, keys: I) {
        for key in keys {
            self.insert(key);
        }
    }
}

impl<K: Hash + Eq, V> Extend<(K, V)> for HashMap<K, V> {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, entries: I) {
        for (key, value) in entries {
            self.insert(key, value);
        }
    }
}

impl<'a, K: Hash + Eq + Copy + 'a> Extend<&'a K> for HashSet<K> {
    fn extend<I: IntoIterator<Item = &'a K>>(&mut self, keys: I) {
        for &key in keys {
            self.insert(key);
        }
    }
}

impl<K: fmt::Debug> fmt::Debug for HashSet<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set()
            .entries(self.0.entries.iter().map(|(key, ())| key))
            .finish()
    }
}

impl<K: Hash + Eq, V> FromIterator<(K, V)> for HashMap<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> HashMap<K, V> {
        let mut map = HashMap::default();
        map.extend(entries);
        map
    }
}

impl<K: Hash + Eq> FromIterator<K> for HashSet<K> {
    fn from_iter<I: IntoIterator<Item = K>>(keys: I) -> HashSet<K> {
        let mut set = HashSet::default();
        set.extend(keys);
        set
    }
}

impl<K, V> IntoIterator for HashMap<K, V> {
    type Item = (K, V);
    type IntoIter = std::vec::IntoIter<(K, V)>;

    fn into_iter(self) -> Self::IntoIter {
        self.entries.into_iter()
    }
}

impl<K: Hash + Eq + Borrow<Q>, Q: Hash + Eq + ?Sized, V> Index<&Q> for HashMap<K, V> {
    type Output = V;

    /// The value of a key.
    ///
    /// # Panics
    /// When there is none.
    fn index(&self, key: &Q) -> &V {
        self.get(key).expect("no entry for a key")
    }
}

impl<K: Hash + Eq, V: PartialEq> PartialEq for HashMap<K, V> {
    fn eq(&self, other: &HashMap<K, V>) -> bool {
        self.len() == other.len() && self.iter().all(|(key, value)| other.get(key) == Some(value))
    }
}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for HashMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.entries.iter().map(|(key, value)| (key, value)))
            .finish()
    }
}

/// Where the entries are: open addressing with linear probing.
#[derive(Clone, Default)]
struct Table {
    /// Positions of entries, from 1; 0 is an empty slot. A power of two of them, of which at most three quarters are taken.
    slots: Vec<u32>,
    hashes: Vec<u32>,
}

impl Table {
    /// The position of the entry with this hash that `is_it`, and its slot.
    #[inline(never)]
    fn find(&self, hash: u32, is_it: &dyn Fn(usize) -> bool) -> Option<(usize, usize)> {
        let mask = self.slots.len().checked_sub(1)?;
        let mut slot = hash as usize & mask;
        loop {
            let at = (self.slots[slot] as usize).checked_sub(1)?;
            if self.hashes[at] == hash && is_it(at) {
                return Some((at, slot));
            }
            slot = (slot + 1) & mask;
        }
    }

    /// Adds the entry after the last one.
    #[inline(never)]
    fn push(&mut self, hash: u32) {
        self.hashes.push(hash);
        let count = self.hashes.len();
        if count * 4 > self.slots.len() * 3 {
            let wanted = (count * 2).next_power_of_two().max(8);
            self.slots.clear();
            self.slots.resize(wanted, 0);
            (0..count).for_each(|at| self.enter(at));
        } else {
            self.enter(count - 1);
        }
    }

    fn enter(&mut self, at: usize) {
        let mask = self.slots.len() - 1;
        let mut slot = self.hashes[at] as usize & mask;
        while self.slots[slot] != 0 {
            slot = (slot + 1) & mask;
        }
        self.slots[slot] = at as u32 + 1;
    }

    /// Takes an entry out; the last one gets its position.
    #[inline(never)]
    fn swap_remove(&mut self, at: usize) {
        let mask = self.slots.len() - 1;
        let slot_of = |own: usize| self.find(self.hashes[own], &|found| found == own).map(|found| found.1);
        let (Some(mut hole), Some(of_last)) = (slot_of(at), slot_of(self.hashes.len() - 1)) else {
            return;
        };
        self.slots[of_last] = at as u32 + 1;
        // Whatever stands behind the hole moves up, unless that would put it before its first slot.
        let mut slot = hole;
        loop {
            slot = (slot + 1) & mask;
            let own = self.slots[slot] as usize;
            if own == 0 {
                break;
            }
            // The entry that is last still has its hash there.
            let hash = if slot == of_last { self.hashes.len() } else { own } - 1;
            let from_first = slot.wrapping_sub(self.hashes[hash] as usize) & mask;
            if from_first >= (slot.wrapping_sub(hole) & mask) {
                self.slots[hole] = own as u32;
                hole = slot;
            }
        }
        self.slots[hole] = 0;
        self.hashes.swap_remove(at);
    }
}

fn hash<Q: Hash + ?Sized>(key: &Q) -> u32 {
    let mut mixer = Mixer(seed());
    key.hash(&mut mixer);
    mixer.finish() as u32
}

/// A number that whoever makes a model does not know, where there is one.
fn seed() -> u64 {
    #[cfg(target_arch = "wasm32")]
    return 0;
    #[cfg(not(target_arch = "wasm32"))]
    {
        use std::{hash::BuildHasher, sync::OnceLock};
        static SEED: OnceLock<u64> = OnceLock::new();
        *SEED.get_or_init(|| std::collections::hash_map::RandomState::new().hash_one(0u8))
    }
}

/// Multiplies and folds, word by word.
struct Mixer(u64);

impl Mixer {
    #[inline(never)]
    fn mix(&mut self, word: u64) {
        let product = (self.0 ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = product ^ (product >> 29);
    }
}

impl Hasher for Mixer {
    #[inline(never)]
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.mix(u64::from_le_bytes(word));
        }
        self.mix(bytes.len() as u64);
    }

    fn write_u8(&mut self, number: u8) {
        self.mix(number.into());
    }

    fn write_u32(&mut self, number: u32) {
        self.mix(number.into());
    }

    fn write_u64(&mut self, number: u64) {
        self.mix(number);
    }

    fn write_usize(&mut self, number: usize) {
        self.mix(number as u64);
    }

    fn finish(&self) -> u64 {
        let folded = (self.0 ^ (self.0 >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
        folded ^ (folded >> 32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_changes_leave_what_the_standard_library_s_map_holds() {
        let mut state = 7u64;
        let mut random = move |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % below
        };
        for keys in [3, 20, 400] {
            let (mut ours, mut theirs) = (HashMap::new(), std::collections::HashMap::new());
            for step in 0..4000u64 {
                let key = format!("key {}", random(keys));
                match random(3) {
                    0 => assert_eq!(ours.remove(&key), theirs.remove(&key)),
                    1 => assert_eq!(ours.insert(key.clone(), step), theirs.insert(key, step)),
                    _ => {
                        let value = *ours.entry(key.clone()).or_insert(step);
                        assert_eq!(value, *theirs.entry(key).or_insert(step));
                    }
                }
                assert_eq!(ours.len(), theirs.len());
            }
            for (key, value) in &theirs {
                assert_eq!(ours.get(key), Some(value), "{key}");
            }
            assert!(ours.iter().all(|(key, value)| theirs.get(key) == Some(value)));
        }
    }

    #[test]
    fn keys_stay_in_the_order_of_insertion() {
        let set: HashSet<&str> = ["c", "a", "b", "a"].into_iter().collect();
        assert_eq!(set.iter().copied().collect::<Vec<_>>(), ["c", "a", "b"]);
        assert!(set.contains("b") && !set.contains("d"));
    }
}
