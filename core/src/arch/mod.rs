//! The guest's CPU in words that both vendors share: segments, exceptions, events, control bits.
//!
//! Plain values; nothing here touches hardware. Source: Intel SDM volume 3 and AMD APM volume 2.
pub mod control;
pub mod event;
pub mod segment;

pub use control::{Cr0, Cr4, Efer, Rflags};
pub use event::{Event, Exception, Shadow};
pub use segment::{Attributes, Segment, SegmentName, TableName, TableRegister};
