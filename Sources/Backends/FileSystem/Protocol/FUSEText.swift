/// A text that ends with a NUL: a name, or what a link leads to.
// SAFETY: whoever makes one says how long the text stays where it is; nobody keeps it for longer.
@safe struct FUSEText {
    let pointer: UnsafePointer<CChar>
}
