//! Numbers of nf_tables (include/uapi/linux/netfilter/nf_tables.h) that more than one table is written or
//! read with. What one file alone needs stands there.

use super::NEWTABLE;

pub(in crate::nft) const CMP_SREG: u16 = 1;

pub(in crate::nft) const CT_DREG: u16 = 1;
pub(in crate::nft) const CT_KEY: u16 = 2;

pub(in crate::nft) const DATA_VALUE: u16 = 1;
pub(in crate::nft) const DATA_VERDICT: u16 = 2;

pub(in crate::nft) const DELRULE: u16 = NEWTABLE + 8;
pub(in crate::nft) const DELSETELEM: u16 = NEWTABLE + 14;
pub(in crate::nft) const DELTABLE: u16 = NEWTABLE + 2;
pub(in crate::nft) const ELEMS: u16 = 3;
pub(in crate::nft) const GETSET: u16 = NEWTABLE + 10;
pub(in crate::nft) const GETSETELEM: u16 = NEWTABLE + 13;
pub(in crate::nft) const JUMP: i32 = -3;
pub(in crate::nft) const NEWSET: u16 = NEWTABLE + 9;
pub(in crate::nft) const NEWSETELEM: u16 = NEWTABLE + 12;
pub(in crate::nft) const POSTROUTING: u32 = 4;
pub(in crate::nft) const RETURN: i32 = -5;

pub(in crate::nft) const ELEMS_SET: u16 = 2;
pub(in crate::nft) const ELEMS_TABLE: u16 = 1;

pub(in crate::nft) const ELEM_DATA: u16 = 2;
pub(in crate::nft) const ELEM_KEY: u16 = 1;

pub(in crate::nft) const EXPR_DATA: u16 = 2;
pub(in crate::nft) const EXPR_NAME: u16 = 1;

pub(in crate::nft) const FIB_DREG: u16 = 1;
pub(in crate::nft) const FIB_FLAGS: u16 = 3;
pub(in crate::nft) const FIB_RESULT: u16 = 2;

pub(in crate::nft) const IMMEDIATE_DATA: u16 = 2;
pub(in crate::nft) const IMMEDIATE_DREG: u16 = 1;

pub(in crate::nft) const LIST_ELEM: u16 = 1;

pub(in crate::nft) const LOOKUP_DREG: u16 = 3;
pub(in crate::nft) const LOOKUP_SET: u16 = 1;
pub(in crate::nft) const LOOKUP_SREG: u16 = 2;

pub(in crate::nft) const META_IIFNAME: u32 = 6;
pub(in crate::nft) const META_L4PROTO: u32 = 16;
pub(in crate::nft) const META_NFPROTO: u32 = 15;
pub(in crate::nft) const META_OIFNAME: u32 = 7;

pub(in crate::nft) const LINK_HEADER: u32 = 0;
pub(in crate::nft) const NETWORK_HEADER: u32 = 1;

pub(in crate::nft) const PAYLOAD_BASE: u16 = 2;
pub(in crate::nft) const PAYLOAD_DREG: u16 = 1;
pub(in crate::nft) const PAYLOAD_LEN: u16 = 4;
pub(in crate::nft) const PAYLOAD_OFFSET: u16 = 3;

pub(in crate::nft) const REG_VERDICT: u32 = 0;

pub(in crate::nft) const SET_DATA_TYPE: u16 = 6;
pub(in crate::nft) const SET_FLAGS: u16 = 3;
pub(in crate::nft) const SET_ID: u16 = 10;
pub(in crate::nft) const SET_KEY_LEN: u16 = 5;
pub(in crate::nft) const SET_KEY_TYPE: u16 = 4;
pub(in crate::nft) const SET_NAME: u16 = 2;
pub(in crate::nft) const SET_TABLE: u16 = 1;

pub(in crate::nft) const TRANSPORT_HEADER: u32 = 2;

pub(in crate::nft) const VERDICT_CHAIN: u16 = 2;
pub(in crate::nft) const VERDICT_CODE: u16 = 1;
