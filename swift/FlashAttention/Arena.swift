/// Memory for what descriptors point to, and references to what it lies in; all of it lasts as long as this.
final class Arena {
    private var allocated: [UnsafeMutableRawPointer] = []
    private var owners: [AnyObject] = []

    /// A copy of a C struct, which holds no references.
    func keep<Value>(_ value: Value) -> UnsafeMutablePointer<Value> {
        keep([value])
    }

    func keep<Value>(_ values: [Value]) -> UnsafeMutablePointer<Value> {
        let memory = UnsafeMutablePointer<Value>.allocate(capacity: values.count)
        memory.initialize(from: values, count: values.count)
        allocated.append(UnsafeMutableRawPointer(memory))
        return memory
    }

    func own(_ owner: AnyObject) {
        owners.append(owner)
    }

    deinit {
        for memory in allocated {
            memory.deallocate()
        }
    }
}
