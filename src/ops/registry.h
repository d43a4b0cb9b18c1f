// The definitions of all ops by name (`add_op`, ...), for the files of this folder and for passes that
// build one kind of node. Everybody else goes through ops.h.
#pragma once

#include "graph/op.h"

namespace vertebra {

#define VERTEBRA_OP(name) extern const OpDef name##_op;
#include "ops/op_list.def"
#undef VERTEBRA_OP

}  // namespace vertebra
