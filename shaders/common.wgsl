// What every kernel may use.

// The number of an address that is not there.
const NONE = 0xffffffffu;

// A number below every one that occurs: WGSL may assume that there are no infinities.
const LOWEST = -3.4028235e38f;
