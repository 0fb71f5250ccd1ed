#pragma once
// The fused product where a thread has neighbouring positions: see Window. What it reads of x is then one window for all taps, and what it stores 16 bytes
// that begin where 16 bytes of memory do, and those of a warp where a sector does.
//
// Where rows of y begin at different places of a sector, since their length is no multiple of it, so would what a warp stores. But tiles of channels need
// not have the same positions: channels whose rows begin alike are a set of columns, and each set has positions some further than the one before, so that
// all of them store whole sectors. Sets read x as much further, which is another place of the same window.
//
// Where there are no sets for that (ImplicitGeometry::any_place), runs lie in shared memory as they will in y; or, where they have no room there or tiles do without
// (shifted_store), lanes pass outputs on until what each of them stores is aligned.
//
// Axes before the last one (OuterAxis): a tile has one output of each, or two neighbouring ones of the one before the last (Window::lines). Where no two positions share an output, those of all axes are one row instead.
#include "plan/implicit_geometry.h"

namespace convt_gemm {

/// Works out the geometry, or says false where the tile's window is not that of the problem: it has to have its stride, taps and dilation, rows of x of whole
/// 16 bytes if there is an outer axis, and rows of y that sets of columns can bring to whole ones or that its kernel stores at any place.
bool make_window_geometry(const Problem& problem, Precision precision, const ImplicitTile& tile, const DeviceTraits& traits, ImplicitGeometry* geometry);

/// Of device memory: counters of tiles.
std::int64_t window_workspace_bytes(const ImplicitGeometry& geometry);

/// Whether all of x is asked for at once, and no part of it by several column tiles.
bool window_x_passes(const ImplicitGeometry& geometry);

}  // namespace convt_gemm
