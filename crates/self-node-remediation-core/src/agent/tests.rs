//! One agent against a scripted world, on a virtual clock.

mod announcing;
mod canonical;
mod control_plane;
mod properties;
mod restart;
mod rules;
mod seams;
mod together;
mod topologies;
mod world;
