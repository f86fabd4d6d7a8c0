//! Operations by number. Where an opcode's bits 5:3 or the extension choose one, they do it in this
//! order.

/// The eight operations of group 1.
pub(super) const ADD: u8 = 0;
pub(super) const OR: u8 = 1;
pub(super) const ADC: u8 = 2;
pub(super) const SBB: u8 = 3;
pub(super) const AND: u8 = 4;
pub(super) const SUB: u8 = 5;
pub(super) const XOR: u8 = 6;
pub(super) const CMP: u8 = 7;
/// Group 2: ROL, ROR, RCL, RCR, SHL, SHR, SHL, SAR; then SHLD and SHRD.
pub(super) const SHIFT: u8 = 8;
pub(super) const SHIFT_DOUBLE_LEFT: u8 = 16;
pub(super) const SHIFT_DOUBLE_RIGHT: u8 = 17;
/// Group 3: TEST, TEST, NOT, NEG, MUL, IMUL, DIV, IDIV.
pub(super) const TEST: u8 = 18;
pub(super) const TEST_TOO: u8 = 19;
pub(super) const NOT: u8 = 20;
pub(super) const NEG: u8 = 21;
/// RAX by the target.
pub(super) const MULTIPLY: u8 = 22;
pub(super) const MULTIPLY_SIGNED: u8 = 23;
pub(super) const DIVIDE: u8 = 24;
pub(super) const DIVIDE_SIGNED: u8 = 25;
/// Group 8, whose first four are none: BT, BTS, BTR, BTC.
pub(super) const GROUP_8: u8 = 22;
pub(super) const BIT_TEST: u8 = 26;
pub(super) const BIT_SET: u8 = 27;
pub(super) const BIT_RESET: u8 = 28;
pub(super) const BIT_COMPLEMENT: u8 = 29;
/// Groups 4 and 5.
pub(super) const INC: u8 = 30;
pub(super) const DEC: u8 = 31;
pub(super) const MOVE: u8 = 32;
pub(super) const MOVE_SIGNED: u8 = 33;
pub(super) const MOVE_REVERSED: u8 = 34;
pub(super) const EXCHANGE: u8 = 35;
pub(super) const EXCHANGE_ADD: u8 = 36;
pub(super) const COMPARE_EXCHANGE: u8 = 37;
pub(super) const COMPARE_EXCHANGE_PAIR: u8 = 38;
/// The source by the target, or by an immediate.
pub(super) const MULTIPLY_SHORT: u8 = 39;
pub(super) const SET: u8 = 40;
pub(super) const CONDITIONAL_MOVE: u8 = 41;
pub(super) const SCAN_FORWARD: u8 = 42;
pub(super) const SCAN_REVERSE: u8 = 43;
pub(super) const TRAILING_ZEROS: u8 = 44;
pub(super) const LEADING_ZEROS: u8 = 45;
pub(super) const POP_COUNT: u8 = 46;
pub(super) const CALL: u8 = 47;
pub(super) const JUMP: u8 = 48;
/// The target is subtracted from the source, as strings do it.
pub(super) const COMPARE: u8 = 49;
pub(super) const NOTHING: u8 = 50;
/// A move to half of a vector register, or from it.
pub(super) const LOW_HALF: u8 = 51;
pub(super) const HIGH_HALF: u8 = 52;
pub(super) const FROM_HIGH_HALF: u8 = 53;

const fn set(operations: &[u8]) -> u64 {
    let (mut set, mut rest) = (0, operations);
    while let [first, more @ ..] = rest {
        set |= 1 << *first;
        rest = more;
    }
    set
}

/// These leave the target alone.
const READING: u64 = set(&[
    CMP,
    TEST,
    TEST_TOO,
    MULTIPLY,
    MULTIPLY_SIGNED,
    DIVIDE,
    DIVIDE_SIGNED,
    BIT_TEST,
    JUMP,
    COMPARE,
    NOTHING,
]);
/// These do not look at it.
const WRITING: u64 = set(&[
    MOVE,
    MOVE_SIGNED,
    MOVE_REVERSED,
    SET,
    SCAN_FORWARD,
    SCAN_REVERSE,
    TRAILING_ZEROS,
    LEADING_ZEROS,
    POP_COUNT,
    CALL,
    FROM_HIGH_HALF,
]);
/// These may have a LOCK prefix, with a target in memory.
pub(super) const LOCKABLE: u64 = set(&[
    ADD,
    OR,
    ADC,
    SBB,
    AND,
    SUB,
    XOR,
    NOT,
    NEG,
    BIT_SET,
    BIT_RESET,
    BIT_COMPLEMENT,
    INC,
    DEC,
    EXCHANGE,
    EXCHANGE_ADD,
    COMPARE_EXCHANGE,
    COMPARE_EXCHANGE_PAIR,
]);

/// What happens to the target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Use {
    Read,
    Write,
    Modify,
}

/// What an operation does to its target.
pub(super) fn using(operation: u8) -> Use {
    let is_in = |set: u64| set >> (operation & 63) & 1 != 0;
    if is_in(READING) {
        Use::Read
    } else if is_in(WRITING) {
        Use::Write
    } else {
        Use::Modify
    }
}
