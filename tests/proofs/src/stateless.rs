//! The part of a vendor that has no guest state to show.

/// The methods of [`Vendor`](waterbear_core::vendor::Vendor) that show or change the guest's state,
/// for one whose state is of this type and whose guest has none. Each panics.
#[macro_export]
macro_rules! stateless {
    ($state:ty) => {
        fn length(&self, _: &mut $state) -> u8 {
            unreachable!("there are no instructions")
        }
        fn fetched<'a>(&self, _: &'a mut $state) -> &'a [u8] {
            unreachable!("there are no instructions")
        }
        fn segment(
            &self,
            _: &mut $state,
            _: ::waterbear_core::arch::SegmentName,
        ) -> ::waterbear_core::arch::Segment {
            unreachable!("there are no registers")
        }
        fn set_segment(
            &self,
            _: &mut $state,
            _: ::waterbear_core::arch::SegmentName,
            _: ::waterbear_core::arch::Segment,
        ) {
            unreachable!("there are no registers")
        }
        fn table(
            &self,
            _: &mut $state,
            _: ::waterbear_core::arch::TableName,
        ) -> ::waterbear_core::arch::TableRegister {
            unreachable!("there are no registers")
        }
        fn set_table(
            &self,
            _: &mut $state,
            _: ::waterbear_core::arch::TableName,
            _: ::waterbear_core::arch::TableRegister,
        ) {
            unreachable!("there are no registers")
        }
        fn cpl(&self, _: &mut $state) -> u8 {
            unreachable!("there are no registers")
        }
        fn control(&self, _: &mut $state, _: ::waterbear_core::vendor::Control) -> u64 {
            unreachable!("there are no registers")
        }
        fn set_control(&self, _: &mut $state, _: ::waterbear_core::vendor::Control, _: u64) {
            unreachable!("there are no registers")
        }
        fn set_page_directories(&self, _: &mut $state, _: [u64; 4]) {
            unreachable!("there are no registers")
        }
        fn msr(&self, _: &mut $state, _: ::waterbear_core::vendor::Msr) -> u64 {
            unreachable!("there are no registers")
        }
        fn set_msr(&self, _: &mut $state, _: ::waterbear_core::vendor::Msr, _: u64) {
            unreachable!("there are no registers")
        }
        fn set_tsc_offset(&self, _: &mut $state, _: u64) {
            unreachable!("there are no registers")
        }
        fn inject(&self, _: &mut $state, _: ::waterbear_core::arch::Event) {
            unreachable!("there are no events")
        }
        fn take_undelivered(&self, _: &mut $state) -> Option<::waterbear_core::arch::Event> {
            unreachable!("there are no events")
        }
        fn shadow(&self, _: &mut $state) -> ::waterbear_core::arch::Shadow {
            unreachable!("there are no events")
        }
        fn set_shadow(&self, _: &mut $state, _: ::waterbear_core::arch::Shadow) {
            unreachable!("there are no events")
        }
        fn want_windows(&self, _: &mut $state, _: bool, _: bool) {
            unreachable!("there are no events")
        }
    };
}

/// [`Registers`](waterbear_core::vendor::Registers) for a vCPU that has none. Each panics.
#[macro_export]
macro_rules! registerless {
    ($state:ty) => {
        impl ::waterbear_core::vendor::Registers for $state {
            fn regs(&mut self) -> &mut ::waterbear_core::regs::Regs {
                unreachable!("there are no registers")
            }
            fn switched(&mut self) -> &mut ::waterbear_core::regs::Switched {
                unreachable!("there are no registers")
            }
        }
    };
}
