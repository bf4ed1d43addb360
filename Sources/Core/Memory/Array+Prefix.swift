extension Array {
    /// The number of elements at the beginning for which `isBefore` holds, in an array in whose order
    /// it holds for no later one.
    package func prefixCount(where isBefore: (Element) -> Bool) -> Int {
        var (low, high) = (0, count)
        while low < high {
            let middle = low + (high - low) / 2
            if isBefore(self[middle]) { low = middle + 1 } else { high = middle }
        }
        return low
    }
}
