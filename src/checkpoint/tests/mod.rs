mod carried;
mod folders;
mod places;
mod records;
