//! Typed values straight to MessagePack bytes, in the layout of the published package.
//!
//! Structs become maps keyed by field name at every depth. A unit variant becomes its index, any
//! other variant a one-entry map from the index to the content. `None` and `()` become nil.
//! Integers take their shortest form.

use rmp::encode::{self, ByteBuf};
use serde::ser::{
    self, Serialize, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant,
    SerializeTuple, SerializeTupleStruct, SerializeTupleVariant,
};

use super::Scanner;
use crate::error::ProtoError;

/// Appends `value` to `out`.
///
/// On error `out` holds a partial value; truncate it to its former length.
pub fn to_writer<T: Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) -> Result<(), ProtoError> {
    let mut buf = ByteBuf::from_vec(std::mem::take(out));
    let result = value.serialize(&mut Serializer { buf: &mut buf });
    *out = buf.into_vec();
    result
}

struct Serializer<'a> {
    buf: &'a mut ByteBuf,
}

/// An open array or map whose head is already written.
struct Compound<'a, 'b> {
    ser: &'a mut Serializer<'b>,
    /// Where the head begins and how long it is.
    head: (usize, usize),
    kind: Kind,
    announced: usize,
    count: usize,
}

#[derive(Clone, Copy)]
enum Kind {
    Array,
    Map,
}

impl<'b> Serializer<'b> {
    fn open<'a>(
        &'a mut self,
        kind: Kind,
        len: Option<usize>,
    ) -> Result<Compound<'a, 'b>, ProtoError> {
        let announced = len.unwrap_or(0);
        let start = self.buf.as_slice().len();
        write_head(self.buf, kind, announced)?;
        let head = (start, self.buf.as_slice().len() - start);
        Ok(Compound {
            ser: self,
            head,
            kind,
            announced,
            count: 0,
        })
    }

    fn variant(&mut self, index: u32) -> Result<(), ProtoError> {
        write_head(self.buf, Kind::Map, 1)?;
        ser::Serializer::serialize_u32(self, index)
    }
}

impl<'a, 'b> Compound<'a, 'b> {
    fn element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), ProtoError> {
        self.count += 1;
        value.serialize(&mut *self.ser)
    }

    fn close(self) -> Result<(), ProtoError> {
        if self.count == self.announced {
            return Ok(());
        }
        // The length was not known beforehand: put the right head in place of the guess.
        let mut head = ByteBuf::new();
        write_head(&mut head, self.kind, self.count)?;
        let (start, len) = self.head;
        let mut bytes = std::mem::take(self.ser.buf).into_vec();
        bytes.splice(start..start + len, head.into_vec());
        *self.ser.buf = ByteBuf::from_vec(bytes);
        Ok(())
    }
}

impl<'a, 'b> ser::Serializer for &'a mut Serializer<'b> {
    type Ok = ();
    type Error = ProtoError;
    type SerializeSeq = Compound<'a, 'b>;
    type SerializeTuple = Compound<'a, 'b>;
    type SerializeTupleStruct = Compound<'a, 'b>;
    type SerializeTupleVariant = Compound<'a, 'b>;
    type SerializeMap = Compound<'a, 'b>;
    type SerializeStruct = Compound<'a, 'b>;
    type SerializeStructVariant = Compound<'a, 'b>;

    fn serialize_bool(self, v: bool) -> Result<(), ProtoError> {
        encode::write_bool(self.buf, v).map_err(fail)
    }

    fn serialize_i8(self, v: i8) -> Result<(), ProtoError> {
        self.serialize_i64(v.into())
    }

    fn serialize_i16(self, v: i16) -> Result<(), ProtoError> {
        self.serialize_i64(v.into())
    }

    fn serialize_i32(self, v: i32) -> Result<(), ProtoError> {
        self.serialize_i64(v.into())
    }

    fn serialize_i64(self, v: i64) -> Result<(), ProtoError> {
        encode::write_sint(self.buf, v).map(drop).map_err(fail)
    }

    fn serialize_u8(self, v: u8) -> Result<(), ProtoError> {
        self.serialize_u64(v.into())
    }

    fn serialize_u16(self, v: u16) -> Result<(), ProtoError> {
        self.serialize_u64(v.into())
    }

    fn serialize_u32(self, v: u32) -> Result<(), ProtoError> {
        self.serialize_u64(v.into())
    }

    fn serialize_u64(self, v: u64) -> Result<(), ProtoError> {
        encode::write_uint(self.buf, v).map(drop).map_err(fail)
    }

    fn serialize_f32(self, v: f32) -> Result<(), ProtoError> {
        encode::write_f32(self.buf, v).map_err(fail)
    }

    fn serialize_f64(self, v: f64) -> Result<(), ProtoError> {
        encode::write_f64(self.buf, v).map_err(fail)
    }

    fn serialize_char(self, v: char) -> Result<(), ProtoError> {
        self.serialize_str(v.encode_utf8(&mut [0; 4]))
    }

    fn serialize_str(self, v: &str) -> Result<(), ProtoError> {
        check_len(v.len())?;
        encode::write_str(self.buf, v).map_err(fail)
    }

    fn serialize_bytes(self, v: &[u8]) -> Result<(), ProtoError> {
        check_len(v.len())?;
        encode::write_bin(self.buf, v).map_err(fail)
    }

    fn serialize_none(self) -> Result<(), ProtoError> {
        self.serialize_unit()
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), ProtoError> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), ProtoError> {
        encode::write_nil(self.buf).map_err(fail)
    }

    fn serialize_unit_struct(self, _name: &'static str) -> Result<(), ProtoError> {
        self.serialize_unit()
    }

    fn serialize_unit_variant(
        self,
        _name: &'static str,
        index: u32,
        _variant: &'static str,
    ) -> Result<(), ProtoError> {
        self.serialize_u32(index)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        value: &T,
    ) -> Result<(), ProtoError> {
        if name == rmpv::MSGPACK_EXT_STRUCT_NAME {
            return write_ext(self.buf, value);
        }
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        index: u32,
        _variant: &'static str,
        value: &T,
    ) -> Result<(), ProtoError> {
        self.variant(index)?;
        value.serialize(self)
    }

    fn serialize_seq(self, len: Option<usize>) -> Result<Compound<'a, 'b>, ProtoError> {
        self.open(Kind::Array, len)
    }

    fn serialize_tuple(self, len: usize) -> Result<Compound<'a, 'b>, ProtoError> {
        self.open(Kind::Array, Some(len))
    }

    fn serialize_tuple_struct(
        self,
        _name: &'static str,
        len: usize,
    ) -> Result<Compound<'a, 'b>, ProtoError> {
        self.open(Kind::Array, Some(len))
    }

    fn serialize_tuple_variant(
        self,
        _name: &'static str,
        index: u32,
        _variant: &'static str,
        len: usize,
    ) -> Result<Compound<'a, 'b>, ProtoError> {
        self.variant(index)?;
        self.open(Kind::Array, Some(len))
    }

    fn serialize_map(self, len: Option<usize>) -> Result<Compound<'a, 'b>, ProtoError> {
        self.open(Kind::Map, len)
    }

    fn serialize_struct(
        self,
        _name: &'static str,
        len: usize,
    ) -> Result<Compound<'a, 'b>, ProtoError> {
        self.open(Kind::Map, Some(len))
    }

    fn serialize_struct_variant(
        self,
        _name: &'static str,
        index: u32,
        _variant: &'static str,
        len: usize,
    ) -> Result<Compound<'a, 'b>, ProtoError> {
        self.variant(index)?;
        self.open(Kind::Map, Some(len))
    }
}

impl SerializeSeq for Compound<'_, '_> {
    type Ok = ();
    type Error = ProtoError;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), ProtoError> {
        self.element(value)
    }

    fn end(self) -> Result<(), ProtoError> {
        self.close()
    }
}

impl SerializeTuple for Compound<'_, '_> {
    type Ok = ();
    type Error = ProtoError;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), ProtoError> {
        self.element(value)
    }

    fn end(self) -> Result<(), ProtoError> {
        self.close()
    }
}

impl SerializeTupleStruct for Compound<'_, '_> {
    type Ok = ();
    type Error = ProtoError;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), ProtoError> {
        self.element(value)
    }

    fn end(self) -> Result<(), ProtoError> {
        self.close()
    }
}

impl SerializeTupleVariant for Compound<'_, '_> {
    type Ok = ();
    type Error = ProtoError;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), ProtoError> {
        self.element(value)
    }

    fn end(self) -> Result<(), ProtoError> {
        self.close()
    }
}

impl SerializeMap for Compound<'_, '_> {
    type Ok = ();
    type Error = ProtoError;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), ProtoError> {
        self.element(key)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), ProtoError> {
        value.serialize(&mut *self.ser)
    }

    fn end(self) -> Result<(), ProtoError> {
        self.close()
    }
}

impl SerializeStruct for Compound<'_, '_> {
    type Ok = ();
    type Error = ProtoError;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        key: &'static str,
        value: &T,
    ) -> Result<(), ProtoError> {
        self.element(key)?;
        value.serialize(&mut *self.ser)
    }

    fn end(self) -> Result<(), ProtoError> {
        self.close()
    }
}

impl SerializeStructVariant for Compound<'_, '_> {
    type Ok = ();
    type Error = ProtoError;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        key: &'static str,
        value: &T,
    ) -> Result<(), ProtoError> {
        SerializeStruct::serialize_field(self, key, value)
    }

    fn end(self) -> Result<(), ProtoError> {
        self.close()
    }
}

impl ser::Error for ProtoError {
    fn custom<T: std::fmt::Display>(msg: T) -> Self {
        Self::Serialize(msg.to_string())
    }
}

fn write_head(buf: &mut ByteBuf, kind: Kind, len: usize) -> Result<(), ProtoError> {
    let len = check_len(len)?;
    match kind {
        Kind::Array => encode::write_array_len(buf, len).map(drop).map_err(fail),
        Kind::Map => encode::write_map_len(buf, len).map(drop).map_err(fail),
    }
}

/// Writes an extension value, which `rmpv` presents as a named pair of type and bytes.
fn write_ext<T: Serialize + ?Sized>(buf: &mut ByteBuf, pair: &T) -> Result<(), ProtoError> {
    const EXPECTED: ProtoError = ProtoError::Field {
        field: "extension value",
        expected: "a pair of an i8 and bytes",
    };
    let mut bytes = Vec::new();
    to_writer(&mut bytes, pair)?;
    let mut scanner = Scanner::new(&bytes);
    if scanner.array()? != Some(2) {
        return Err(EXPECTED);
    }
    let start = scanner.pos();
    scanner.skip()?;
    let tag: i8 = rmp_serde::from_slice(&bytes[start..scanner.pos()]).map_err(|_| EXPECTED)?;
    let data = scanner.bin()?.ok_or(EXPECTED)?;
    encode::write_ext_meta(buf, check_len(data.len())?, tag).map_err(fail)?;
    let mut whole = std::mem::take(buf).into_vec();
    whole.extend_from_slice(data);
    *buf = ByteBuf::from_vec(whole);
    Ok(())
}

fn check_len(len: usize) -> Result<u32, ProtoError> {
    u32::try_from(len)
        .map_err(|_| ProtoError::Serialize(format!("length {len} does not fit 32 bits")))
}

fn fail(e: impl std::fmt::Display) -> ProtoError {
    ProtoError::Serialize(e.to_string())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn hex_of<T: Serialize>(value: &T) -> String {
        let mut out = Vec::new();
        to_writer(&mut out, value).unwrap();
        hex::encode(out)
    }

    #[derive(serde::Serialize)]
    struct Point {
        x: u8,
        label: Option<&'static str>,
    }

    #[derive(serde::Serialize)]
    enum Shape {
        Empty,
        Circle(f32),
        Line(u8, u8),
        Named { at: Point },
    }

    #[derive(serde::Serialize)]
    struct Unit;

    #[derive(serde::Serialize)]
    struct Wrapper(i16);

    #[test]
    fn structs_are_maps_at_every_depth() {
        assert_eq!(
            hex_of(&Point { x: 1, label: None }),
            "82a17801a56c6162656cc0"
        );
        assert_eq!(
            hex_of(&vec![Point {
                x: 200,
                label: Some("a")
            }]),
            "9182a178ccc8a56c6162656ca161"
        );
    }

    #[test]
    fn variants_travel_by_index() {
        assert_eq!(hex_of(&Shape::Empty), "00");
        assert_eq!(hex_of(&Shape::Circle(1.0)), "8101ca3f800000");
        assert_eq!(hex_of(&Shape::Line(1, 2)), "8102920102");
        assert_eq!(
            hex_of(&Shape::Named {
                at: Point { x: 0, label: None }
            }),
            "810381a2617482a17800a56c6162656cc0"
        );
    }

    #[test]
    fn units_are_nil_and_wrappers_vanish() {
        assert_eq!(hex_of(&()), "c0");
        assert_eq!(hex_of(&Unit), "c0");
        assert_eq!(hex_of(&Wrapper(-33)), "d0df");
    }

    #[test]
    fn integers_take_their_shortest_form() {
        assert_eq!(hex_of(&127i64), "7f");
        assert_eq!(hex_of(&200i32), "ccc8");
        assert_eq!(hex_of(&-32i8), "e0");
        assert_eq!(hex_of(&u64::MAX), "cfffffffffffffffff");
        assert_eq!(hex_of(&i64::MIN), "d38000000000000000");
    }

    #[test]
    fn unknown_lengths_get_the_right_head() {
        struct Unsized(usize);
        impl Serialize for Unsized {
            fn serialize<S: ser::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                let mut seq = s.serialize_seq(None)?;
                for i in 0..self.0 {
                    seq.serialize_element(&(i % 100))?;
                }
                seq.end()
            }
        }
        for n in [0, 1, 15, 16, 70_000] {
            let mut ours = Vec::new();
            to_writer(&mut ours, &Unsized(n)).unwrap();
            let mut sized = Vec::new();
            to_writer(&mut sized, &(0..n).map(|i| i % 100).collect::<Vec<_>>()).unwrap();
            assert_eq!(ours, sized, "{n} elements");
        }
    }

    #[test]
    fn extension_values_stay_extensions() {
        let value = rmpv::Value::Ext(7, vec![1, 2, 3, 4]);
        let mut expected = Vec::new();
        rmpv::encode::write_value(&mut expected, &value).unwrap();
        assert_eq!(hex_of(&value), hex::encode(expected));
    }

    #[test]
    fn human_readable_forms_as_in_the_published_package() {
        let map = BTreeMap::from([("ip", std::net::IpAddr::from([127, 0, 0, 1]))]);
        assert_eq!(hex_of(&map), "81a26970a93132372e302e302e31");
    }
}
