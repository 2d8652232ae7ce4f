//! TEMP
use weft_io::Packet;
use weft_wire::DropReason;
/// TEMP
#[derive(Debug)]
pub struct Edits;
impl Edits {
    /// TEMP
    pub fn apply(&self, _p: &mut Packet) -> Result<(), DropReason> {
        Ok(())
    }
}
/// TEMP
pub fn remark_dscp(_p: &mut Packet, _l: u8) -> Result<(), DropReason> {
    Ok(())
}
