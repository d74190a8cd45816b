mod folders;
mod places;
mod records;
